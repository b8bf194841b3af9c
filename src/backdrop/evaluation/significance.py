"""Whether a mean over objects exceeds zero by more than chance, at levels that hold for the whole life of a holdout.

ADR 0015 compares these functions with others by simulation.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

ALPHA = 0.045  # of all looks together: the promised 5 % with a reserve for differences more skewed than SHAPE's
SHAPE = 0.5  # the gamma distribution that stands for strong skew: that of a squared normal variable, skewness 2.8
FLOOR = 1e-12  # the smallest p
DRAWS, SEED = 16_380, 20170727
CHUNK = 1 << 20  # objects drawn at a time, which bounds the memory
WIDER = (1.0, 1.25, 1.6, 2.2, 4.0)  # multiples of SHAPE to draw from: even samples are rare, and fill the far tail
POINTS = np.sinh(np.linspace(0, 12, 40))  # of the adjusted t, where the chance to reach it is computed
BELIEVED = 0.6  # of a sample's skewness: few objects show too little of it, and none of what they lack

Floats = NDArray[np.float64]


def level(look: int) -> float:
    """What p must stay below at the `look`-th comparison on a holdout: ALPHA / (look * (look + 1)).

    The levels of all looks add up to ALPHA; after some looks, ALPHA / (look + 1) is left. So the chance of any false
    promotion is at most ALPHA, whatever the looks have in common and however the holdout grows.

    Args:
        look: 1 for the first.
    """
    return ALPHA / (look * (look + 1))


def p_value(differences: ArrayLike) -> Floats:
    """The chance that a mean rises as clearly above zero as this one if the true mean is zero, with skew or without.

    It is the larger of Student's p, which holds for heavy tails, and the chance to reach the same adjusted t with
    differences as strongly skewed to the left as a squared normal variable is to the right. That holds for challengers
    that are slightly better on most objects and much worse on a few. Below 0.5, it is above 0.5 for the negated sample.

    Args:
        differences: (..., objects), at least two objects, all finite.

    Returns:
        (...), FLOOR..1.
    """
    t, adjusted = _statistics(np.asarray(differences, np.float64), BELIEVED)
    count = np.shape(differences)[-1]
    skewed = special.ndtr(-np.interp(adjusted, POINTS, _skewed_quantiles(count)))
    return np.asarray(np.maximum(special.stdtr(count - 1, -t), np.where(t > 0, skewed, 1.0)).clip(FLOOR, 1.0))


def adjusted_p(differences: ArrayLike) -> Floats:
    """As `p_value`, for moderate skew: the larger of the p of Student's t and of Hall's, which allows for skewness."""
    t, adjusted = _statistics(np.asarray(differences, np.float64), 1.0)
    return np.asarray(special.stdtr(np.shape(differences)[-1] - 1, -np.minimum(t, adjusted)).clip(FLOOR, 1.0))


def _statistics(sample: Floats, believed: float) -> tuple[Floats, Floats]:
    """Student's t of the mean, and its monotone adjustment for a share of the sample's skewness.

    Hall, "On the Removal of Skewness by Transformation" (1992). Negating a sample negates both exactly.
    """
    count = sample.shape[-1]
    mean = sample.mean(-1)
    centered = sample - mean[..., None]
    variance = (centered**2).mean(-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.where(mean == 0, 0.0, mean * math.sqrt(count - 1) / np.sqrt(variance))
        skew = np.where(variance > 0, (centered**3).mean(-1) / variance**1.5, 0.0) * believed / math.sqrt(count)
        adjusted = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    return t, np.where(np.isfinite(adjusted), adjusted, t)  # without variance


@lru_cache(maxsize=256)
def _skewed_quantiles(count: int) -> Floats:
    """The normal quantiles of the chances to reach each of POINTS with strongly skewed differences of mean zero.

    The differences are SHAPE - E, where E has a gamma distribution. A sample's sum of E is independent of the objects'
    shares in it, and t falls as the sum rises. So only the shares are drawn; given them, the chance is exact. They are
    drawn from a mixture that has enough of the even samples which reach far, and are weighted by their true density.
    """
    shapes = SHAPE * np.array(WIDER)
    rng = np.random.default_rng(SEED)
    pieces = np.array_split(np.repeat(shapes, DRAWS // len(shapes)), -(-DRAWS * count // CHUNK))
    found = [_moments(rng.standard_gamma(piece[:, None], (len(piece), count))) for piece in pieces]
    variance, third, logarithms = np.concatenate(found, 1)
    skew = -third / variance**1.5 * BELIEVED / math.sqrt(count)
    density = special.gammaln(count * shapes) - count * special.gammaln(shapes)
    density = density + (shapes - 1) * (logarithms[:, None] - count * math.log(count))
    with np.errstate(over="ignore"):  # of many objects, what was drawn far from SHAPE has no weight
        weights = 1 / np.exp(density - density[:, :1]).mean(1) / DRAWS
    h = POINTS[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(skew) < 1e-6, h, (np.cbrt(1 + skew * (h - skew / 6)) - 1) * 3 / skew)
    ratio = 1 + t * np.sqrt(variance / (count - 1))  # t is reached if the sum is at most count * SHAPE / ratio
    chances = special.gammainc(count * SHAPE, count * SHAPE / np.maximum(ratio, FLOOR)) @ weights
    return np.maximum.accumulate(-special.ndtri(chances.clip(FLOOR, 0.5)))


def _moments(draws: Floats) -> Floats:
    """The variance, the third moment and the sum of logarithms of the shares in each of some draws (draws, objects)."""
    shares = draws / draws.mean(1, keepdims=True)
    return np.stack([((shares - 1) ** 2).mean(1), ((shares - 1) ** 3).mean(1), np.log(shares).sum(1)])
