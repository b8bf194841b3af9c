"""Surfaces: lofted hulls for body and cabin, and patches and rods, which are painted.

Car frame: meters; x points from the center to the nose, y to the side, z up from the floor.
"""

from dataclasses import dataclass

import numpy as np

from backdrop.data.synthetic.cars import Car, Color, Floats


@dataclass(frozen=True)
class Patch:
    """A grid of points, painted as quadrilaterals that face away from `center`."""

    points: Floats  # NM3, car frame
    color: Color
    gloss: float = 0.0
    center: tuple[float, float, float] = (0.0, 0.0, 0.7)


@dataclass(frozen=True)
class Rod:
    """A line with a thickness, such as an antenna."""

    points: Floats  # N3, car frame
    color: Color
    thickness: float


Part = Patch | Rod


@dataclass(frozen=True)
class Hull:
    """A loft: one half section at each station along the car, mirrored. A point on it is (x, v).

    x is the distance behind the nose; v runs from 0 (foot of the section) to 1 (top center), negative on the far side.
    """

    half_length: float
    stations: Floats  # S
    foot: Floats  # S, lowest height
    top: Floats  # S, highest height
    half: Floats  # S, half width at the foot
    section: Floats  # K3: v, share of the half width, share of the height
    lean: float = 0.0
    bow: float = 0.0  # how much the middle of the ends bulges out, meters

    def at(self, x: Floats | float, v: Floats | float) -> Floats:
        """Points of the surface, in the car frame; x and v are broadcast."""
        x, v = np.broadcast_arrays(np.asarray(x, float), np.asarray(v, float))
        share = np.interp(np.abs(v), self.section[:, 0], self.section[:, 1])
        rise = np.interp(np.abs(v), self.section[:, 0], self.section[:, 2]) * self._height(x)
        along = (x - self.stations[0]) / np.ptp(self.stations)
        y = (np.interp(x, self.stations, self.half) - self.lean * rise) * share
        behind = x + self.bow * (1 - 2 * along) * (share**2)
        z = np.interp(x, self.stations, self.foot) + rise
        return np.stack([self.half_length - behind, np.where(v < 0, -y, y), z], axis=-1)

    def on_side(self, x: Floats, z: Floats, side: int) -> Floats:
        """Points of the side's surface at distance x behind the nose and height z, kept on the body."""
        share = (z - np.interp(x, self.stations, self.foot)) / np.maximum(self._height(x), 1e-6)
        return self.at(x, side * self.v_at(np.clip(share, 0.02, 0.97)))

    def on_end(self, y: Floats, z: Floats, front: bool) -> Floats:
        """Points of the nose or tail in front of (y, z): the first station that contains them."""
        depth = np.linspace(0.004, 0.9, 160)
        stations = depth if front else self.stations[-1] - depth
        low, height = np.interp(stations, self.stations, self.foot), self._height(stations)
        share = (z[..., None] - low) / height
        v = self.v_at(np.clip(share, 0, 1))
        reach = np.interp(stations, self.stations, self.half) * np.interp(v, self.section[:, 0], self.section[:, 1])
        inside = (share > 0) & (share < 1) & (reach >= np.abs(y)[..., None])
        x = stations[np.where(inside.any(-1), inside.argmax(-1), -1)]
        return np.stack([self.half_length - x, y, z], axis=-1)

    def v_at(self, share: Floats | float) -> Floats:
        """The v at a share (0 to 1) of a section's height, on its flank."""
        flank = self.section[self.section[:, 1] > 0.75]
        return np.asarray(np.interp(share, flank[:, 2], flank[:, 0]))

    def grid(self, x0: float, x1: float, v0: float, v1: float, n: int, m: int) -> Floats:
        """A rectangle of the surface as an n x m grid of points, denser toward the ends of x."""
        t = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, n))
        return self.at((x0 + (x1 - x0) * t)[:, None], np.linspace(v0, v1, m)[None])

    def _height(self, x: Floats) -> Floats:
        return np.asarray(np.interp(x, self.stations, self.top - self.foot))


def _blur(x: Floats, knots: Floats, values: Floats, radius: float) -> Floats:
    """A broken line at x, its corners rounded over `radius`."""
    offsets = np.linspace(-1, 1, 61)
    lines = [np.interp(x + radius * o, knots, values) for o in offsets]
    return np.asarray(np.average(lines, axis=0, weights=1 - offsets**2))


def _section(corners: list[tuple[float, float]]) -> Floats:
    """A half section through `corners` (share of width, share of height), rounded; v counts length and turning."""
    raw = np.array(corners)
    steps = (
        np.concatenate([[0], np.cumsum(np.hypot(*np.diff(raw, axis=0).T))]) / np.hypot(*np.diff(raw, axis=0).T).sum()
    )
    v = np.linspace(0, 1, 241)
    rounded = np.stack([v, *(_blur(v, steps, axis, 0.05) for axis in raw.T)], axis=1)
    rounded[[0, -1], 1:] = raw[[0, -1]]  # the halves must meet
    turn = np.abs(np.gradient(np.unwrap(np.arctan2(*np.gradient(rounded[:, 1:], axis=0).T))))
    rounded[:, 0] = np.cumsum(0.5 / len(v) + 0.5 * turn / turn.sum())  # more faces where the light changes
    rounded[:, 0] = (rounded[:, 0] - rounded[0, 0]) / np.ptp(rounded[:, 0])
    return rounded


BODY = _section(
    [(0, 0), (0.86, 0), (0.95, 0.07), (0.985, 0.3), (1, 0.5), (0.985, 0.7), (0.93, 0.9), (0.8, 0.985), (0, 1.05)]
)
CABIN = _section([(1, 0), (1, 0.5), (0.985, 0.84), (0.88, 0.97), (0.5, 1.01), (0, 1.02)])


def _round(x: Floats, nose: float, tail: float, power: float) -> Floats:
    """1 in the middle of x, falling to 0 along a superellipse within `nose` and `tail` meters of its ends."""
    inward = np.clip(np.minimum((x - x[0]) / nose, (x[-1] - x) / tail), 0, 1)
    return np.asarray((1 - (1 - inward) ** power) ** (1 / power))


def _profile(x: Floats, knots: list[tuple[float, float]], radius: float) -> Floats:
    """Heights along a broken line, its corners rounded over `radius` meters."""
    at, height = np.array(knots).T
    return _blur(x, at, height, radius)


def body_hull(car: Car) -> Hull:
    """The hull below the windows."""
    length, middle = car.length, car.clearance + 0.44 * (car.hood - car.clearance)
    x = length * (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 121)))
    knots = [
        (0, car.hood - 0.2),
        (car.cowl * length, car.hood),
        (car.end * length, car.deck),
        (length, car.deck - 0.04),
    ]
    blunt = 2.4 if car.style in ("sedan", "coupe", "hatchback", "wagon") else 3.4
    tail = min(0.4, 1.1 * (1 - car.end) * length + 0.02)  # the tail must stay under the foot of the rear window
    tail = 0.1 if car.style == "pickup" else tail
    top = middle + (_profile(x, knots, 0.15) - middle) * _round(x, 0.42, tail, blunt)
    foot = middle - (middle - car.clearance) * _round(x, 0.75, 0.7, 3.0)
    half = car.width / 2 * (0.82 + 0.18 * _round(x, 0.62, 0.45, 2.6))
    return Hull(length / 2, x, foot, top, half, BODY)


def cabin_hull(car: Car) -> Hull:
    """The hull of windows and roof."""
    length = car.length
    x = np.linspace(car.cowl, car.end, 101) * length
    sag = 0.03 if car.style in ("van", "pickup") else 0.07
    knots = [
        (car.cowl * length, car.hood - 0.03),
        (car.roof * length, car.height - 0.03),
        (0.6 * car.roof * length + 0.4 * car.back * length, car.height),
        (car.back * length, car.height - sag),
        (car.end * length, car.deck - (0.2 if car.end > 0.95 else 0.03)),
    ]
    foot = np.interp(x, [x[0], x[-1]], [car.hood - 0.04, car.deck - (0.2 if car.end > 0.95 else 0.04)])
    top = np.maximum(_profile(x, knots, 0.1), foot)
    half = np.full_like(x, car.width / 2 * 0.955) * (0.91 + 0.09 * _round(x, 1.3, 1.0, 2.2))
    return Hull(length / 2, x, foot, top, half, CABIN, car.tumblehome, 0.05 if car.style in ("van", "pickup") else 0.14)
