"""Parameters of cars: body style, dimensions in meters, color."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Color = tuple[float, float, float]


CHROME = (190.0, 192.0, 196.0)


@dataclass(frozen=True)
class Car:
    """One car: a body style with dimensions of its own, in meters; `cowl` to `end` are shares of its length."""

    style: str
    length: float
    width: float
    height: float
    clearance: float
    wheel: float  # radius
    hood: float  # height of the hood at the windshield
    deck: float  # height of the trunk or the tail's shoulder
    cowl: float  # foot of the windshield
    roof: float  # top of the windshield
    back: float  # top of the rear window
    end: float  # foot of the rear window
    glazed: float  # where the side windows end
    tumblehome: float  # how far the sides lean in, meters per meter
    index: int = 0
    color: Color = (128.0, 128.0, 128.0)
    rim: Color = CHROME
    spokes: int = 7
    antenna: float = 0.0  # length; 0 for none
    rails: bool = False
    cladding: bool = False  # unpainted bumpers and arches


STYLES = {
    style.style: style
    for style in (
        Car("sedan", 4.80, 1.84, 1.46, 0.19, 0.33, 0.99, 1.04, 0.27, 0.43, 0.69, 0.86, 0.79, 0.34),
        Car("coupe", 4.50, 1.86, 1.33, 0.15, 0.34, 0.90, 0.94, 0.32, 0.48, 0.64, 0.90, 0.74, 0.40),
        Car("hatchback", 4.15, 1.76, 1.50, 0.18, 0.31, 1.00, 1.02, 0.23, 0.41, 0.86, 0.975, 0.83, 0.28),
        Car("wagon", 4.80, 1.82, 1.49, 0.18, 0.33, 0.99, 1.02, 0.26, 0.42, 0.85, 0.975, 0.90, 0.30),
        Car("suv", 4.70, 1.90, 1.74, 0.26, 0.38, 1.15, 1.16, 0.25, 0.39, 0.89, 0.98, 0.90, 0.26),
        Car("minivan", 4.95, 1.96, 1.76, 0.19, 0.34, 1.08, 1.10, 0.17, 0.36, 0.92, 0.985, 0.92, 0.22),
        Car("van", 4.72, 1.90, 1.88, 0.22, 0.34, 1.12, 1.08, 0.15, 0.31, 0.96, 0.99, 0.38, 0.12),
        Car("pickup", 5.10, 1.92, 1.80, 0.28, 0.39, 1.16, 1.14, 0.25, 0.36, 0.545, 0.59, 0.56, 0.26),
    )
}
COLORS: dict[str, Color] = {
    "white": (226, 227, 226),
    "black": (16, 16, 18),
    "silver": (168, 171, 174),
    "graphite": (74, 76, 80),
    "red": (150, 18, 26),
    "blue": (26, 48, 112),
    "brown": (78, 62, 52),
    "sand": (172, 160, 136),
    "green": (34, 66, 50),
    "sky": (96, 140, 176),
}
# Most cars are white, black or gray; the other colors share the rest.
SHARES = (0.28, 0.14, 0.12, 0.10, *[0.06] * 6)
ALWAYS = {1: ("van", "white"), 3: ("coupe", "black")}  # the two hardest: white on the wall, black in its own shadow


def object_name(seed: int, index: int) -> str:
    """The name of object number `index`: 12 hex digits, different for all indices below 2**48."""
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:6], "big")
    number = (start + index) % 2**48
    for factor in (0x9E3779B97F4B, 0xD1B54A32D193):  # odd factors and xor-shifts are one-to-one
        number = number * factor % 2**48
        number ^= number >> 23
    return f"{number:012x}"


def draw_car(seed: int, index: int) -> Car:
    """Draws the parameters of object number `index`; 1 is always a white van, and 3 a black coupe."""
    rng, (block, place) = np.random.default_rng([seed, index]), divmod(index, len(STYLES))
    styles = np.random.default_rng([seed, block]).permutation(list(STYLES))  # each style once in every block
    style, paint = ALWAYS.get(index, (str(styles[place]), str(rng.choice(list(COLORS), p=SHARES))))
    base, stretch = STYLES[style], rng.uniform(0.965, 1.035, 4)
    tint = rng.uniform(0.985, 1.015, 3) * rng.uniform(0.9, 1.08) * np.array(COLORS[paint])
    shade = float(rng.uniform(120, 215))
    return replace(
        base,
        index=index,
        length=base.length * float(stretch[0]),
        width=base.width * float(stretch[1]),
        height=base.height * float(stretch[2]),
        wheel=base.wheel * float(stretch[3]),
        color=tuple(np.clip(tint, 0, 236).tolist()),
        rim=(shade, shade, shade + 3),
        spokes=int(rng.integers(5, 11)),
        antenna=float(rng.choice([0.0, 0.0, 0.35, 0.8])),
        rails=style in ("suv", "wagon", "minivan") and bool(rng.random() < 0.6),
        cladding=style in ("suv", "van", "pickup") and bool(rng.random() < 0.6),
    )
