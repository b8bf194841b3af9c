"""Everything on a car, part by part, in the order of painting."""

from itertools import pairwise

import numpy as np

from backdrop.data.synthetic.cars import CHROME, Car, Color, Floats
from backdrop.data.synthetic.hulls import Hull, Part, Patch, Rod, body_hull, cabin_hull

DISTANCE = 7.3  # camera to the turntable's axis
LAMP, RED = (214.0, 222.0, 228.0), (178.0, 14.0, 20.0)
BEZEL = (62.0, 64.0, 68.0)
GLASS, RUBBER, DARK, PLATE = (38.0, 46.0, 54.0), (30.0, 30.0, 31.0), (14.0, 14.0, 15.0), (226.0, 232.0, 238.0)


def _ruled(low: Floats, high: Floats, rows: int = 2) -> Floats:
    """The grid between two curves of N points."""
    t = np.linspace(0, 1, rows)[:, None, None]
    return np.asarray(low * (1 - t) + high * t)


def _ring(
    center: Floats, outer: float, inner: float, turn: tuple[float, float] = (0, 2 * np.pi), n: int = 41
) -> Floats:
    """A flat ring (or a sector of one) that stands upright along the car."""
    a = np.linspace(*turn, n)
    spoke = np.stack([np.cos(a), np.zeros_like(a), np.sin(a)], axis=-1)
    return _ruled(center + outer * spoke, center + inner * spoke)


def _axles(car: Car) -> tuple[float, float]:
    """Distance of the two axles behind the nose."""
    front = 0.165 if car.style == "van" else 0.195
    return front * car.length, (0.775 if car.style == "pickup" else 0.79) * car.length


def _hub(car: Car, axle: float, side: int) -> Floats:
    return np.array([car.length / 2 - axle, side * (car.width / 2 - 0.035), car.wheel])


def _tire(car: Car, axle: float, side: int) -> list[Part]:
    """The tread and the inner face: what shows under the car."""
    hub, inward = _hub(car, axle, side), np.array([0, -0.2 * side, 0])
    middle = hub + inward / 2
    center = (float(middle[0]), float(middle[1]), float(middle[2]))
    rim = _ring(hub, car.wheel, 0)
    tread = _ruled(rim[0], rim[0] + inward)
    return [Patch(tread, RUBBER, center=center), Patch(rim + inward, DARK, center=center)]


def _wheel(car: Car, axle: float, side: int) -> list[Part]:
    """The outer face: arch, tire, rim, spokes."""
    hub, r = _hub(car, axle, side), car.wheel
    parts: list[Part] = [Patch(_ring(hub, r, 0), RUBBER), Patch(_ring(hub, 0.72 * r, 0), (42, 42, 44))]
    parts.append(Patch(_ring(hub, 0.73 * r, 0.65 * r), car.rim, 0.6))
    for k in range(car.spokes):
        a = 2 * np.pi * (k + 0.3 * side) / car.spokes
        wide = 0.9 / car.spokes
        foot = _ring(hub, 0.66 * r, 0.1 * r, (a - wide, a + wide), 2)
        parts.append(Patch(foot, car.rim, 0.5))
    return [*parts, Patch(_ring(hub, 0.17 * r, 0), car.rim, 0.5)]


def _arch(car: Car, body: Hull, axle: float, side: int) -> list[Part]:
    """The dark opening around a wheel, on the body's flank, with a lip."""
    a = np.linspace(0, np.pi, 25)
    parts: list[Part] = []
    for radius, color in ((1.32, (36, 36, 38) if car.cladding else None), (1.17, DARK)):
        if color is not None:
            x, z = axle + radius * car.wheel * np.cos(a), car.wheel + radius * car.wheel * np.sin(a)
            sill = np.full_like(x, car.clearance - 0.1)
            parts.append(Patch(_ruled(body.on_side(x, sill, side), body.on_side(x, z, side), 9), color))
    return parts


def _flank(car: Car, body: Hull, side: int) -> list[Part]:
    """Door lines, handles, sill, crease."""
    front, rear = _axles(car)
    line = _mix(car.color, DARK, 0.7)
    low, high = float(body.v_at(0.13)), float(body.v_at(0.84))
    parts: list[Part] = []
    for x in _doors(car):
        parts.append(Patch(body.grid(x - 0.006, x + 0.006, side * low, side * high, 2, 14), line))
    for x in _doors(car)[1:]:
        handle = side * float(body.v_at(0.76)), side * float(body.v_at(0.8))
        parts.append(Patch(body.grid(x - 0.25, x - 0.06, *handle, 3, 3), _mix(car.color, CHROME, 0.4), 0.6))
    skirt = (side * float(body.v_at(0.02)), side * float(body.v_at(0.28 if car.cladding else 0.1)))
    gap = 1.1 * car.wheel
    parts.append(Patch(body.grid(front + gap, rear - gap, *skirt, 12, 5), (34, 34, 36)))
    crease = side * float(body.v_at(0.62)), side * float(body.v_at(0.635))
    parts.append(Patch(body.grid(front + gap, rear - gap, *crease, 12, 2), _mix(car.color, (255, 255, 255), 0.18), 0.3))
    return parts


def _corner_lamps(car: Car, body: Hull, side: int) -> list[Part]:
    """Lamps that reach around the corners of the body."""
    parts: list[Part] = []
    for x, lower, upper, color in ((0.1, 0.66, 0.9, BEZEL), (0.075, 0.7, 0.86, LAMP)):
        lamp = side * float(body.v_at(lower)), side * float(body.v_at(upper))
        parts.append(Patch(body.grid(0.05, x * car.length, *lamp, 14, 8), color, 0.9))
    tail = side * float(body.v_at(0.5)), side * float(body.v_at(0.9))
    parts.append(Patch(body.grid(0.955 * car.length, car.length - 0.02, *tail, 14, 8), RED, 0.6))
    return parts


def _doors(car: Car) -> list[float]:
    """Door lines, as distances behind the nose: the first is the front door's hinge."""
    front, _ = _axles(car)
    hinge = max(car.cowl * car.length + 0.12, front + 1.2 * car.wheel)
    last = min(car.glazed, 0.72) * car.length
    two = car.style in ("coupe", "van", "pickup")
    return [hinge, last] if two else [hinge, (hinge + last) / 2, last]


def _mix(a: Color, b: Color, t: float) -> Color:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def _panel(
    body: Hull, front: bool, half: float, low: float, high: float, color: Color, gloss: float = 0.1, off: float = 0
) -> Patch:
    """A rounded rectangle on the nose or the tail, `half` wide to each side of `off`."""
    a, t = np.linspace(0, 2 * np.pi, 49), np.linspace(0, 1, 6)[:, None]
    y = off + half * t * np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.35
    z = (low + high) / 2 + (high - low) / 2 * t * np.sign(np.sin(a)) * np.abs(np.sin(a)) ** 0.35
    return Patch(body.on_end(y, z, front), color, gloss)


def _nose(car: Car, body: Hull) -> list[Part]:
    """Bumper, intake, grille, headlamps, license plate."""
    floor, top, w = car.clearance, car.hood - 0.24, car.width / 2
    middle = floor + 0.44 * (car.hood - floor)
    parts = [_panel(body, True, 0.78 * w, floor + 0.04, middle - 0.03, DARK)] if car.cladding else []
    parts += [
        _panel(body, True, 0.6 * w, floor + 0.07, floor + 0.16, DARK),
        _panel(body, True, 0.46 * w, middle - 0.04, top, CHROME, 0.8),
        _panel(body, True, 0.435 * w, middle - 0.02, top - 0.02, DARK),
        _panel(body, True, 0.42 * w, (middle + top) / 2 - 0.02, (middle + top) / 2, CHROME, 0.8),
        _panel(body, True, 0.17, middle - 0.19, middle - 0.05, PLATE),
    ]
    for side in (-1, 1):
        parts.append(_panel(body, True, 0.16 * w, middle + 0.02, top, BEZEL, 0.9, side * 0.655 * w))
        parts.append(_panel(body, True, 0.11 * w, middle + 0.05, top - 0.03, LAMP, 0.9, side * 0.655 * w))
        parts.append(_panel(body, True, 0.06 * w, floor + 0.09, floor + 0.17, LAMP, 0.9, side * 0.68 * w))
    return list(parts)


def _tail(car: Car, body: Hull) -> list[Part]:
    """Bumper, lid, lamps, license plate."""
    floor, w = car.clearance, car.width / 2
    middle = floor + 0.44 * (car.deck - floor)
    line = _mix(car.color, DARK, 0.7)
    parts = [_panel(body, False, 0.78 * w, floor + 0.04, middle - 0.03, DARK)] if car.cladding else []
    parts += [
        _panel(body, False, 0.6 * w, floor + 0.04, floor + 0.12, DARK),
        _panel(body, False, 0.62 * w, middle - 0.01, middle + 0.005, line),
        _panel(body, False, 0.22, middle + 0.09, middle + 0.27, line),
        _panel(body, False, 0.17, middle + 0.11, middle + 0.25, PLATE),
    ]
    for side in (-1, 1):
        parts.append(_panel(body, False, 0.19 * w, middle + 0.04, car.deck - 0.14, DARK, 0.3, side * 0.66 * w))
        parts.append(_panel(body, False, 0.17 * w, middle + 0.06, car.deck - 0.16, RED, 0.6, side * 0.66 * w))
        parts.append(_panel(body, False, 0.07 * w, middle + 0.1, middle + 0.16, LAMP, 0.6, side * 0.6 * w))
    return list(parts)


def _glass(car: Car, cabin: Hull) -> list[Part]:
    """Windshield, rear window, side windows with their pillars."""
    length, parts = car.length, []
    x0, x1 = car.cowl * length, car.end * length
    head, back = car.roof * length, car.back * length
    edge = float(np.interp(0.84, cabin.section[::-1, 1], cabin.section[::-1, 0]))
    for start, stop in ((x0 + 0.1, head - 0.03), (back + 0.15 * (x1 - back), x1 - 0.3 * (x1 - back))):
        parts.append(Patch(cabin.grid(start, stop, edge, 1, 16, 10), GLASS, 1.5))
        parts.append(Patch(cabin.grid(start, stop, -1, -edge, 16, 10), GLASS, 1.5))
    low, high = float(cabin.v_at(0.1)), float(cabin.v_at(0.84))
    pillars = [x - 0.02 for x in _doors(car)[1:-1]]
    ends = [x0 + 0.3 * (head - x0), *pillars, car.glazed * length]
    for side in (-1, 1):
        for start, stop in pairwise(ends):
            parts.append(Patch(cabin.grid(start + 0.04, stop - 0.04, side * low, side * high, 20, 10), GLASS, 1.5))
    return list(parts)


def _mirror(car: Car, side: int) -> list[Part]:
    """A mirror housing on a short arm."""
    x, y, z = car.length / 2 - car.cowl * car.length - 0.38, side * (car.width / 2 + 0.07), car.hood + 0.09
    u, v = np.meshgrid(np.linspace(0, np.pi, 9), np.linspace(0, 2 * np.pi, 17), indexing="ij")
    size = 1.25 if car.style in ("suv", "van", "pickup") else 1.0
    ball = np.stack([0.09 * np.sin(u) * np.cos(v), 0.11 * np.cos(u), 0.075 * np.sin(u) * np.sin(v)], axis=-1)
    arm = np.array([[x, y, z - 0.03], [x, y - side * 0.2, z - 0.08]])
    return [Rod(arm, DARK, 0.05), Patch(ball * size + [x, y, z], car.color, 0.8, (x, y, z))]


def _mast(foot: Floats, back: float, up: float) -> Rod:
    return Rod(np.stack([foot, foot + np.array([-back, 0, up])]), DARK, 0.012)


def _trim(car: Car, cabin: Hull) -> list[Part]:
    """Roof rails and antenna."""
    parts: list[Part] = []
    if car.rails:
        x = np.linspace(car.roof + 0.06, car.back - 0.02, 12) * car.length
        v = float(np.interp(0.85, cabin.section[::-1, 1], cabin.section[::-1, 0]))
        parts = [Rod(cabin.at(x, side * v) + np.array([0, 0, 0.035]), (60, 60, 62), 0.035) for side in (-1, 1)]
    if 0 < car.antenna < 0.5:
        foot = cabin.at((car.back - 0.03) * car.length, 1.0)
        parts.append(_mast(foot, 0.5 * car.antenna, car.antenna))
    return parts


def _whip(car: Car, body: Hull) -> list[Part]:
    """The long antenna on a wing."""
    foot = body.at((car.cowl - 0.04) * car.length, body.v_at(0.95))
    return [_mast(foot, 0.1, car.antenna)] if car.antenna > 0.5 else []


def _under(car: Car) -> Patch:
    """The dark underbody between the wheels."""
    x, y = 0.3 * car.length, 0.4 * car.width
    loop = np.array([[x, y], [x, -y], [-x, -y], [-x, y], [x, y]])
    low, high = (np.column_stack([loop, np.full(5, z)]) for z in (car.clearance - 0.05, car.clearance + 0.2))
    return Patch(_ruled(low, high), DARK)


def _decals(car: Car, body: Hull, sides: list[int], front: bool, rear: bool) -> list[Part]:
    """What is painted on the body, on the sides of it that the camera sees."""
    parts = [p for side in (-1, 1) for p in _corner_lamps(car, body, side)]
    parts += _nose(car, body) if front else []
    parts += _tail(car, body) if rear else []
    for side in sides:
        parts += _flank(car, body, side)
        for axle in _axles(car):
            parts += [*_arch(car, body, axle, side), *_wheel(car, axle, side)]
    return parts


def _bed(car: Car, body: Hull) -> list[Part]:
    """The open bed of a pickup."""
    span = ((car.end + 0.01) * car.length, 0.97 * car.length)
    v = float(body.v_at(0.97))
    halves = ((v, 1.0), (-1.0, -v)) if car.style == "pickup" else ()
    return [Patch(body.grid(*span, low, high, 12, 8), DARK) for low, high in halves]


def all_parts(car: Car, angle: float) -> list[Part]:
    """Everything on the car in the order of painting, for the turntable at `angle`."""
    body, cabin, whip = body_hull(car), cabin_hull(car), _whip(car, body_hull(car))
    beside, ahead = DISTANCE * float(np.sin(angle)), DISTANCE * float(np.cos(angle))  # the camera, in the car frame
    near = [side for side in (-1, 1) if side * beside > car.width / 2]
    far = [side for side in (-1, 1) if side not in near]
    parts = [p for side in far for p in _mirror(car, side)]
    parts += [p for side in (*far, *near) for axle in _axles(car) for p in _tire(car, axle, side)]
    parts += [_under(car), Patch(body.grid(0, car.length, -1, 1, 110, 81), car.color, 0.8)]
    parts += _decals(car, body, near, ahead > car.length / 2, -ahead > car.length / 2)
    parts += [*_bed(car, body), *(whip if ahead < 0 else [])]
    parts.append(Patch(cabin.grid(car.cowl * car.length, car.end * car.length, -1, 1, 90, 61), car.color, 0.8))
    parts += [*_glass(car, cabin), *_trim(car, cabin), *(whip if ahead >= 0 else [])]
    return [*parts, *(p for side in near for p in _mirror(car, side))]
