"""Means over many images, with confidence intervals.

The Dice of a set of images is the mean over objects of the mean over each object's images. Views of one object are not
independent, so objects, never images, are counted and resampled.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage
from backdrop.common.errors import MemberError
from backdrop.evaluation.records import Estimate, Evaluation, Holdout, Score, Spread, dump_scores

CONFIDENCE = 0.95
FEW_OBJECTS = 12  # an interval over fewer objects is too uncertain to show an effect
RESAMPLES = 10_000
SEED = 20170727  # fixed, so that equal scores give equal intervals
CHUNK = 1 << 20  # draws per chunk, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """A mean over objects with its 95 % interval."""

    mean: float
    low: float
    high: float


def object_means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean value of each object, sorted by name.

    Args:
        values: (object, value) of each image, in any order, because the sums are exact.
    """
    groups: dict[str, list[float]] = {}
    for name, value in values:
        groups.setdefault(name, []).append(value)
    return {name: math.fsum(groups[name]) / len(groups[name]) for name in sorted(groups)}


def bootstrap(values: Mapping[str, float]) -> Interval:
    """Mean of the objects' values and its 95 % interval, by resampling the objects with replacement.

    Percentiles are taken at a level somewhat outside 2.5 % and 97.5 %, because plain ones are too narrow for few
    objects: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), section 5.3, "expanded percentile".
    Both ends are mirror images among the sorted resamples, and rounding is symmetric, so that negating every value
    negates the interval, bit for bit. The order of `values` doesn't matter.

    Args:
        values: one value per object, such as a Dice or a difference of two.

    Raises:
        ValueError: if there are no objects, or a value is not a number.
    """
    sample = np.array([values[name] for name in sorted(values)], np.float64)
    mean = _mean(values)
    means = np.sort(_resampled_means(sample))
    rank = math.floor(_tail(len(sample)) * RESAMPLES)
    # Adding zero turns -0.0 into 0.0.
    return Interval(mean, float(means[rank]) + 0.0, float(means[-1 - rank]) + 0.0)


def spread(values: Mapping[str, float]) -> Spread:
    """As `bootstrap`, but without an interval for a single object."""
    interval, few = bootstrap(values), len(values) == 1
    return Spread(mean=interval.mean, low=None if few else interval.low, high=None if few else interval.high)


def estimate(scores: Iterable[Score]) -> Estimate:
    """Mean over objects of the mean Dice of each one's images, with its interval (None for a single object).

    Raises:
        ValueError: if there are no scores, or a Dice is not a number.
    """
    return estimate_values((score.object, score.dice) for score in scores)


def estimate_values(values: Iterable[tuple[str, float]]) -> Estimate:
    """As `estimate`, of the (object, Dice) of each image."""
    means = object_means(values)
    found = spread(means)
    return Estimate(dice=found.mean, objects=len(means), low=found.low, high=found.high)


def point_estimate(values: Iterable[tuple[str, float]]) -> Estimate:
    """As `estimate_values`, but without an interval."""
    means = object_means(values)
    return Estimate(dice=_mean(means), objects=len(means))


def summarize(
    scores: Sequence[Score], members: Mapping[str, Mapping[str, float]], model: str, plans: str
) -> Evaluation:
    """The evaluation of an ensemble.

    Args:
        scores: a score for every image.
        members: each member's own Dice on every holdout image, by member and image.
        model: digest of the ensemble.
        plans: digest of its plans.

    Raises:
        MemberError: if an image's Dice is not a number, or a member lacks a holdout image.
    """
    _refuse_nan(scores)
    held = [score for score in scores if score.fold is None]
    folded = [score for score in scores if score.fold is not None]
    recipes = sorted({recipe for score in folded for recipe in score.recipes})
    return Evaluation(
        model=model,
        plans=plans,
        scores=storage.sha256(dump_scores(scores)),
        oof={recipe: _oof(folded, recipe) for recipe in recipes},
        oof_ensemble=estimate(folded) if folded else None,
        holdout=Holdout(
            ensemble=estimate(held) if held else None,
            members={name: _alone(name, held, members[name]) for name in sorted(members)} if held else {},
            objects=len({score.object for score in held}),
        ),
    )


def _mean(values: Mapping[str, float]) -> float:
    if not values:
        raise ValueError("no objects to take a mean of")
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("a value is not a number")
    return math.fsum(values.values()) / len(values)


def _resampled_means(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of RESAMPLES resamples of the same size."""
    generator = np.random.default_rng(SEED)
    rows = max(1, CHUNK // len(sample))
    counts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([sample[generator.integers(len(sample), size=(n, len(sample)))].mean(1) for n in counts])


def _tail(count: int) -> float:
    """Share of resampled means to cut off at each end for `count` objects: 2.5 % for many, less for few."""
    if count < 2:
        return 0.0
    normal = NormalDist()
    z, freedom = normal.inv_cdf((1 + CONFIDENCE) / 2), count - 1
    # Student's t from the normal quantile: Abramowitz and Stegun, 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-t * math.sqrt(count / freedom))


def _oof(scores: Sequence[Score], recipe: str) -> Estimate:
    return point_estimate((score.object, score.recipes[recipe]) for score in scores if recipe in score.recipes)


def _alone(member: str, held: Sequence[Score], dice: Mapping[str, float]) -> Estimate:
    for score in held:
        if not math.isfinite(dice.get(score.image, math.nan)):
            raise MemberError(f"Member {member} has no Dice on holdout image {score.image}", "Train that member again")
    return point_estimate((score.object, dice[score.image]) for score in held)


def _refuse_nan(scores: Iterable[Score]) -> None:
    for score in scores:
        if not all(math.isfinite(dice) for dice in (score.dice, *score.recipes.values())):
            raise MemberError(f"The Dice of {score.image} is not a number", "Train the ensemble's members again")
