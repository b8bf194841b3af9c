"""Turns photographs in another color space into sRGB, which is what a web page takes an image without one for."""

import io
import struct
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from backdrop.common.errors import DataError

STRIP = 2**24  # bytes that are converted at a time
STEP = 17  # between the levels that show whether a profile is sRGB: 0, 17, …, 255
SAME = 3  # no level differs by more between two makers' sRGB
GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")  # Pillow's

# A PNG's chunk and a box of HEIC and AVIF, with ITU-T H.273's numbers of primaries and transfer characteristics.
CICP, NCLX = b"\0\0\0\x04cICP", b"\0\0\0\x13colrnclx"
BT709 = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)  # x and y of white, red, green and blue
PRIMARIES = {
    1: BT709,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
BT709_CURVES, OWN_CURVE, HDR = (1, 6, 14, 15), 13, {16: "PQ", 18: "HLG"}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SCREEN_CURVE = (2.4,)  # BT.1886
LEAST_GAMMA, MOST_GAMMA = 0.450, 0.460  # of a PNG, whose 0.45455 alone means sRGB
D50 = (0.9642, 1.0, 0.8249)  # of profiles
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def as_srgb(image: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3), 0..255, in sRGB: relative colorimetric, with black point compensation.

    A profile that is sRGB itself, damaged, or made for other than RGB or gray changes nothing, as in a browser.

    Args:
        image: the pixels; those of the result may take their place.
        profile: an ICC profile, of gray only for gray pixels; empty for none.
    """
    levels = _gray_levels(profile) if profile else None
    if levels is not None:
        return cv2.LUT(image, levels).astype(np.uint8, copy=False)
    transform = _transform(profile, "RGB") if profile else None
    if transform is None or _is_srgb(profile):
        return image
    converted = image if image.flags.writeable else image.copy()
    for rows in np.array_split(converted, max(1, converted.nbytes // STRIP)):
        rows[:] = _apply(transform, rows)
    return converted


def from_cmyk(image: Image.Image) -> NDArray[np.uint8] | None:
    """A CMYK image as sRGB (H, W, 3), 0..255; None if it isn't one, or has no profile that can be used."""
    profile = image.info.get("icc_profile") if image.mode == "CMYK" else None
    transform = _transform(profile, "CMYK") if profile else None
    return None if transform is None else np.array(ImageCms.applyTransform(image, transform))


def profile_of(data: bytes, image: Any) -> bytes:
    """The ICC profile of a photograph's colors, as browsers see them; empty if they are sRGB.

    It is the file's own, or made from what a PNG (`cICP`, or `gAMA` and `cHRM`), HEIC or AVIF (`nclx`) has instead.

    Args:
        data: the file's bytes.
        image: the file, opened by Pillow or pi_heif.

    Raises:
        DataError: if it is HDR; it doesn't name the file.
    """
    own: bytes = image.info.get("icc_profile") or b""
    if data.startswith(b"\x89PNG"):
        described = _by_numbers(*_find_numbers(data[: data.find(b"IDAT")], CICP, ">BB"), SCREEN_CURVE)
        if described is None and not own:
            described = _by_gamma(image.info)
        if described is not None:
            return described
    elif not own and data[4:8] == b"ftyp":
        return _by_numbers(*_nclx(data, image), SRGB_CURVE) or b""
    return own if own[16:20] != b"GRAY" or image.mode in GRAY_MODES else b""


def _nclx(data: bytes, image: Any) -> tuple[int, int]:
    """The numbers of a HEIC's or AVIF's photograph, which aren't those of a gain map beside it; zeros without any."""
    if isinstance(image, Image.Image):  # Pillow doesn't tell; writers put the photograph's first
        return _find_numbers(data, NCLX, ">HH")
    told = image.info.get("nclx_profile") or {}
    return told.get("color_primaries", 0), told.get("transfer_characteristics", 0)


def _find_numbers(data: bytes, head: bytes, form: str) -> tuple[int, int]:
    """H.273's numbers of primaries and transfer characteristics behind a head in a file; zeros without any."""
    start = data.find(head) + len(head)
    if start < len(head):
        return 0, 0
    primaries, transfer = struct.unpack_from(form, data, start)
    return primaries, transfer


def _by_numbers(primaries: int, transfer: int, bt709: tuple[float, ...]) -> bytes | None:
    """The profile that H.273's numbers mean; None if browsers ignore them.

    Browsers show the curve of BT.709 as a screen's in a PNG, but as that of sRGB elsewhere.
    """
    if transfer in HDR:
        raise DataError(f"is HDR ({HDR[transfer]}), which an image of 8 bits can't show", "Export it as SDR, in sRGB")
    if primaries not in PRIMARIES or transfer not in (*BT709_CURVES, OWN_CURVE):
        return None
    return _assemble(PRIMARIES[primaries], bt709 if transfer in BT709_CURVES else SRGB_CURVE)


def _by_gamma(info: dict[Any, Any]) -> bytes:
    """The profile of a PNG's gamma and primaries; empty if they mean sRGB, or there is no gamma."""
    gamma, points = info.get("gamma", 0), info.get("chromaticity")
    if not gamma or "srgb" in info or (points is None and LEAST_GAMMA <= gamma <= MOST_GAMMA):
        return b""
    return _assemble(tuple(points or BT709), (1 / gamma,))


@lru_cache(maxsize=64)
def _assemble(points: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    """An ICC profile (ICC.1:2022) of primaries and a curve; empty if no color space has them.

    Args:
        points: x and y of white, red, green and blue.
        curve: the parameters of a parametric curve: a gamma, or the five of sRGB.
    """
    xy = np.array(points).reshape(4, 2)
    if (xy[:, 1] <= 0).any():
        return b""
    xyz = np.stack([xy[:, 0], xy[:, 1], 1 - xy.sum(axis=1)]) / xy[:, 1]  # the columns are white, red, green and blue
    cones = np.array(BRADFORD)
    adapted = np.linalg.inv(cones) @ np.diag(cones @ D50 / (cones @ xyz[:, 0])) @ cones
    try:
        colors = adapted @ xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])
        tags = [b"XYZ \0\0\0\0" + _fixed(color) for color in (D50, *colors.T)]
        tags.append(b"para\0\0\0\0" + struct.pack(">HH", 3 if len(curve) > 1 else 0, 0) + _fixed(curve))
    except (np.linalg.LinAlgError, struct.error):
        return b""
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    table, start = struct.pack(">I", len(names)), 132 + 12 * len(names)
    for place, name in enumerate(names):
        part = min(place, 4)  # the curve is that of all three
        table += name + struct.pack(">II", start + 20 * part, len(tags[part]))
    body = b"".join(tags)
    head = struct.pack(">I4xI12s12x4s28x12s48x", start + len(body), 0x04400000, b"mntrRGB XYZ ", b"acsp", _fixed(D50))
    return head + table + body


def _fixed(values: Any) -> bytes:
    """Numbers as an ICC profile's `s15Fixed16Number`."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


@lru_cache(maxsize=64)
def _transform(profile: bytes, space: str) -> Any:
    """The transform to sRGB from `RGB`, `CMYK` or `GRAY`; None if the profile is damaged, or of another space."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != space:
            return None
        return ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            "L" if space == "GRAY" else space,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | (ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else 0),
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _gray_levels(profile: bytes) -> NDArray[np.uint8] | None:
    """The level of sRGB for each of a gray profile's 256; None if the profile is damaged, or isn't of gray."""
    transform = _transform(profile, "GRAY")
    if transform is None:
        return None
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.ascontiguousarray(np.asarray(ImageCms.applyTransform(ramp, transform))[0, :, 1])


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    levels = np.arange(0, 256, STEP, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    return bool(np.abs(_apply(_transform(profile, "RGB"), colors).astype(np.int16) - colors).max() <= SAME)


def _apply(transform: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))
