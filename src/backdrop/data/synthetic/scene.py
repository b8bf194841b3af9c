"""Camera, paint, room and shadow: turns a car into a photograph and its mask."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.synthetic.cars import Car, Floats
from backdrop.data.synthetic.hulls import Part, Patch, Rod
from backdrop.data.synthetic.parts import DISTANCE, all_parts

EYE = 1.62  # height of the camera
WALL = 13.0  # radius of the round wall behind the turntable
DISC = 3.05  # radius of the turntable
LETTERING = "BACKDROP"


@dataclass(frozen=True)
class Camera:
    """A level camera with a raised lens, so that vertical lines stay vertical.

    Room frame: meters to the right, away from the camera, and up.
    """

    focal: float  # pixels
    center: tuple[float, float]  # pixels, where the optical axis meets the picture

    def project(self, points: Floats) -> Floats:
        """Pixels (x, y) of points in the room frame."""
        scale = self.focal / points[..., 1]
        x, y = points[..., 0] * scale + self.center[0], (EYE - points[..., 2]) * scale + self.center[1]
        return np.stack([x, y], axis=-1)


def _camera(width: int, height: int) -> Camera:
    focal = min(1.68 * height, 1.12 * width)  # the longest car fits into a picture of any shape
    return Camera(focal, (0.5 * width, 0.5 * height - 0.1 * focal))


def _place(points: Floats, angle: float) -> Floats:
    """Converts points from the car frame to the room frame, with the turntable turned by `angle`."""
    c, s = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([y * c - x * s, DISTANCE - x * c - y * s, z], axis=-1)


def _shade(patch: Patch, centers: Floats, normals: Floats, toward: Floats) -> Floats:
    """Colors of faces below a bright ceiling; the paint reflects it, a white wall and a gray floor."""
    facing = np.clip((normals * toward).sum(-1), 0, 1)
    mirrored = 2 * facing * normals[..., 2] - toward[..., 2]  # height of the reflected ray
    room = np.interp(mirrored, [-0.6, -0.12, 0.02, 0.2, 0.5, 0.62, 0.8, 1], [110, 135, 70, 205, 225, 255, 255, 225])
    light = 0.72 + 0.27 * normals[..., 2] + 0.12 * facing - 0.07 * normals[..., 0]
    light *= np.clip(0.55 + 0.8 * centers[..., 2], 0, 1)  # less of it reaches the sills
    share = patch.gloss * (0.11 + 0.6 * (1 - facing) ** 3)
    return np.asarray(np.array(patch.color) * (light * (1 - share))[..., None] + (room * share)[..., None])


def _faces(patch: Patch, angle: float, camera: Camera) -> tuple[Floats, Floats]:
    """The visible quadrilaterals of a patch, the farthest first: pixels (F, 4, 2) and colors (F, 3)."""
    p = _place(patch.points, angle)
    normals = np.cross(p[1:, 1:] - p[:-1, :-1], p[1:, :-1] - p[:-1, 1:])
    corners = np.stack([p[:-1, :-1], p[1:, :-1], p[1:, 1:], p[:-1, 1:]], axis=2)
    centers = corners.mean(axis=2)
    outward = (normals * (centers - _place(np.array(patch.center), angle))).sum()
    normals *= np.sign(outward) / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    toward = np.array([0, 0, EYE]) - centers
    toward /= np.linalg.norm(toward, axis=-1, keepdims=True)
    seen = (normals * toward).sum(-1) > 0
    order = np.argsort(-centers[seen][:, 1], kind="stable")
    colors = _shade(patch, centers, normals, toward)
    return camera.project(corners[seen][order]), colors[seen][order]


def _paint(canvas: NDArray[np.uint8], parts: list[Part], angle: float, camera: Camera, fine: int) -> None:
    """Paints parts on an RGBA canvas, `fine` times as large as the picture; alpha is 255 where the car is."""
    for part in parts:
        if isinstance(part, Rod):
            p = _place(part.points, angle)
            pixels = np.rint(camera.project(p) * 16).astype(np.int32)
            thick = max(fine + 1, round(part.thickness * camera.focal / float(p[:, 1].mean())))
            # never under a pixel of the picture, or an antenna would be in the photograph but not in the mask
            cv2.polylines(canvas, [pixels], False, (*part.color, 255), thick, shift=4)
            continue
        faces, colors = _faces(part, angle, camera)
        pixels = np.rint(faces * 16).astype(np.int32)
        for face, color in zip(pixels, np.clip(colors, 0, 255).tolist(), strict=True):
            cv2.fillConvexPoly(canvas, face, (*color, 255), shift=4)


def _wall(camera: Camera, width: int) -> tuple[Floats, Floats]:
    """For each column of pixels, the wall's distance along the camera's axis, and its bearing from the turntable."""
    slope = (np.arange(width) + 0.5 - camera.center[0]) / camera.focal
    root = np.sqrt(DISTANCE**2 - (1 + slope**2) * (DISTANCE**2 - WALL**2))
    away = (DISTANCE + root) / (1 + slope**2)
    return away, np.arctan2(slope * away, away - DISTANCE)


def _lettering() -> NDArray[np.uint8]:
    """The word on the wall, cropped to its ink, 0..255."""
    strip = np.zeros((400, 4000), np.uint8)
    cv2.putText(strip, LETTERING, (60, 300), cv2.FONT_HERSHEY_SIMPLEX, 8, (255,), 20, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(strip)
    return np.pad(strip[y : y + h, x : x + w], 4)


@lru_cache(maxsize=2)
def _room(width: int, height: int, seed: int) -> NDArray[np.float32]:
    """The empty studio (H, W, 3): wall, letters, floor, turntable."""
    camera, rng = _camera(width, height), np.random.default_rng([seed])
    away, bearing = _wall(camera, width)
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    up = (EYE - (rows - camera.center[1]) * away / camera.focal).astype(np.float32)  # height on the wall
    wall = 226 + 3.2 * np.clip(up, 0, 6) - 14 * np.abs(bearing)[None] ** 2
    near = np.clip((rows - camera.center[1]) / camera.focal, 0, 0.4)
    floor = 158 + 75 * near - 60 * (np.abs(np.arange(width) / width - 0.5) ** 2)[None]
    stains = cv2.resize(rng.normal(0, 2.2, (14, 9)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    edge = np.clip(up * camera.focal / away + 0.5, 0, 1)
    gray = wall * edge + (floor + stains) * (1 - edge)
    ink = _lettering()
    across = np.broadcast_to((bearing / 1.2 + 0.5) * ink.shape[1], up.shape).astype(np.float32)
    down = ((3.3 - up) / 2.3 * ink.shape[0]).astype(np.float32)
    share = cv2.remap(ink, across, down, cv2.INTER_LINEAR).astype(np.float32)[..., None] / 255
    room: NDArray[np.float32] = (gray[..., None] * (1 - share) + np.array([70, 70, 76]) * share).astype(np.float32)
    _turntable(room, camera)
    room.flags.writeable = False
    return room


def _turntable(room: NDArray[np.float32], camera: Camera) -> None:
    """Draws the edge and the joints of the turntable's disc."""
    a = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([DISC * np.cos(a), DISTANCE + DISC * np.sin(a), np.zeros_like(a)], axis=-1)
    hub = np.array([0, DISTANCE, 0])
    joints = [np.stack([hub + 0.1 * (end - hub), end]) for end in circle[:-1:30]]
    for line, ink, share in ((circle, 105.0, 1.6), *((joint, 150.0, 0.8) for joint in joints)):
        pixels = np.rint(camera.project(line) * 16).astype(np.int32)
        cv2.polylines(room, [pixels], False, (ink, ink, ink), max(1, round(share * camera.focal / 1000)), shift=4)


def _shadow(car: Car, angle: float, camera: Camera, width: int, height: int) -> NDArray[np.float32]:
    """The share of light that reaches the floor (H, W): a wide soft shadow, and a dark one below the car."""
    small = max(1, round(width / 480))
    light = np.ones((-(-height // small), -(-width // small)), np.float32)
    a = np.linspace(0, 2 * np.pi, 65)
    rounded = np.stack([np.cos(a), np.sin(a), 0 * a], axis=-1)
    rounded = np.sign(rounded) * np.sqrt(np.abs(rounded))
    for margin, blur, depth in ((0.3, 0.05, 0.32), (0.04, 0.022, 0.55)):
        footprint = rounded * [car.length / 2 + margin - 0.14, car.width / 2 + margin, 0]
        layer = np.zeros_like(light)
        pixels = np.rint(camera.project(_place(footprint, angle)) / small * 16).astype(np.int32)
        cv2.fillConvexPoly(layer, pixels, (depth,), cv2.LINE_AA, shift=4)
        light *= 1 - cv2.GaussianBlur(layer, (0, 0), blur * camera.focal / small / 2)
    return np.asarray(cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def render(
    car: Car, view: int, views: int, width: int, height: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Photographs one view of a car.

    Args:
        car: what to photograph.
        view: its number, from 1 to `views`; view 1 shows the nose, and all views together are one full turn.
        views: the number of views.
        width: the picture's width in pixels.
        height: its height in pixels; the car fits into pictures of 1:1 to 2:1.
        seed: determines the room and the noise.

    Returns:
        The RGB photograph (H, W, 3) and the mask of the car (H, W), without its shadow.
    """
    photo, _, cover = render_layer(car, view, views, width, height, seed)
    return photo, cover >= 0.5


def render_layer(
    car: Car, view: int, views: int, width: int, height: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Photographs one view of a car, and tells which share of each pixel is the car.

    Args:
        car: as for `render`, like all others.
        view: from 1 to `views`.
        views: the number of views.
        width: in pixels.
        height: in pixels.
        seed: determines the room and the noise.

    Returns:
        The RGB photograph (H, W, 3); the car alone (H, W, 3), 0..255, already multiplied by its share of the pixel and
        with the photograph's light and noise; and that share (H, W), 0..1. The car before another background is
        `car + (1 - share) * background`.
    """
    angle = 2 * np.pi * (view - 1) / views
    fine = max(2, min(4, round(1500 / width)))
    canvas = np.zeros((height * fine, width * fine, 4), np.uint8)
    _paint(canvas, all_parts(car, angle), angle, _camera(width * fine, height * fine), fine)
    layer = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    cover = layer[..., 3:] / 255
    room = _room(width, height, seed) * _shadow(car, angle, _camera(width, height), width, height)[..., None]
    photo = room * (1 - cover) + layer[..., :3]
    rng = np.random.default_rng([seed, car.index, view])
    gain = rng.normal(1, 0.004, 3).astype(np.float32) * np.float32(rng.normal(1, 0.02))
    noise = 2.2 * rng.standard_normal(photo.shape, np.float32)
    photo = photo * gain + noise
    alone = np.asarray(layer[..., :3] * gain + noise * cover, np.float32)
    return np.clip(photo, 0, 255).astype(np.uint8), alone, np.asarray(cover[..., 0], np.float32)
