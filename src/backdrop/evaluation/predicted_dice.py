"""Learns what Dice to expect of a photograph that nobody labeled, with a promise.

Split conformal prediction by object (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173): a line is fitted to the
photographs of some objects, and its errors on those of others say how wide an interval must be. A new object is like
one of these others, so the intervals of all its photographs hold with the stated probability, whatever the line is
worth.

It is like them if the same members judge both. That is so of objects held out, but not out of fold: one fold's members
judge a photograph there, and all members together are rather better.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from backdrop.common.storage import sha256
from backdrop.config import PredictedDice
from backdrop.evaluation.records import DicePrediction, Promise
from backdrop.inference.uncertainty import error_of, predict_dice

HOLDS = 0.9  # of objects never seen
CALIBRATION = 9  # objects that an interval's width is learned from; of fewer, no error is larger than nine in ten
ALIKE = 1e-9  # the variance of logarithms below which there is no slope to find
WORST = 0.05  # share of photographs whose detection is measured
COVERAGES = 20  # points of the risk-coverage curve


@dataclass(frozen=True)
class Known:
    """A labeled photograph: its object, the Dice that its probability expects of its mask, and its real Dice."""

    object: str
    expected: float
    dice: float


def learn(folded: Sequence[Known], held: Sequence[Known]) -> PredictedDice | None:
    """The prediction of Dice, its interval right for all photographs of nine in ten objects never seen.

    The line is fitted out of fold, and the interval's width learned from objects held out. If these are fewer than
    nine, both are learned out of fold, each from half of the objects; the interval's upper end is then rather low.

    Args:
        folded: photographs out of fold.
        held: photographs of the holdout.

    Returns:
        None if there are fewer than nine objects held out and fewer than 18 out of fold, or none out of fold.
    """
    folded, held = sorted(folded, key=astuple), sorted(held, key=astuple)  # sums of floats depend on their order
    fitted, kept = folded, held
    if not is_enough(held):
        names = sorted({photo.object for photo in folded}, key=lambda name: sha256(name.encode()))
        fitted, kept = ([one for one in folded if one.object in part] for part in ({*names[::2]}, {*names[1::2]}))
    if not fitted or not is_enough(kept):
        return None
    slope, intercept = _line(fitted)
    line = PredictedDice(intercept=intercept, slope=slope, spread=0.0)
    largest = sorted(_largest_error(line, photos) for photos in _by_object(kept).values())
    rank = math.ceil((len(largest) + 1) * HOLDS)
    return line.model_copy(update={"spread": largest[rank - 1]})


def is_enough(photos: Sequence[Known]) -> bool:
    """Whether an interval's width can be learned from these photographs: whether they are of nine objects."""
    return len({photo.object for photo in photos}) >= CALIBRATION


def learn_and_measure(folded: Sequence[Known], held: Sequence[Known]) -> DicePrediction:
    """What is learned, as by `learn`, and how that does on the holdout, if there is one.

    For how many objects of the holdout it is right says nothing if its interval was made to be right for them.
    """
    rule = learn(folded, held)
    if rule is None or not held:
        return DicePrediction(rule=rule, holdout=None)
    promise = measure(rule, held)
    return DicePrediction(rule=rule, holdout=promise.model_copy(update={"right": None}) if is_enough(held) else promise)


def measure(rule: PredictedDice, photos: Sequence[Known]) -> Promise:
    """How a rule does on photographs of objects that it wasn't learned on, such as the holdout's."""
    photos = sorted(photos, key=astuple)
    names = {photo.object for photo in photos}
    found = [predict_dice(rule, photo.expected) for photo in photos]
    right = [low <= photo.dice <= high for (_, low, high), photo in zip(found, photos, strict=True)]
    wrong = {photo.object for photo, holds in zip(photos, right, strict=True) if not holds}
    dice = np.array([photo.dice for photo in photos])
    bad = dice <= np.quantile(dice, WORST)
    expected, predicted = (
        np.array(values) for values in ([one.expected for one in photos], [one.dice for one in found])
    )
    return Promise(
        objects=len(names),
        images=len(photos),
        right=len(names) - len(wrong),
        width=float(np.mean([high - low for _, low, high in found])),
        error=float(np.mean(np.abs(predicted - dice))),
        auroc=_auroc(-expected, bad),
        roc=_roc(expected, predicted, bad),
        risks=_risks(predicted, dice),
    )


def _by_object(photos: Sequence[Known]) -> dict[str, list[Known]]:
    groups: dict[str, list[Known]] = {}
    for photo in photos:
        groups.setdefault(photo.object, []).append(photo)
    return groups


def _line(photos: Sequence[Known]) -> tuple[float, float]:
    """Slope, at least 0, and intercept of the errors' logarithms, each object counting the same."""
    x, y = np.log([error_of(photo.expected) for photo in photos]), np.log([error_of(photo.dice) for photo in photos])
    counts = Counter(photo.object for photo in photos)
    weights = np.array([1 / counts[photo.object] for photo in photos])
    weights /= weights.sum()
    middle, height = float(weights @ x), float(weights @ y)
    spread = float(weights @ (x - middle) ** 2)
    slope = max(0.0, float(weights @ ((x - middle) * (y - height))) / spread) if spread > ALIKE else 0.0
    return slope, height - slope * middle


def _largest_error(line: PredictedDice, photos: Sequence[Known]) -> float:
    """Of an object's photographs, in the logarithm of the error."""
    predicted = [line.intercept + line.slope * math.log(error_of(photo.expected)) for photo in photos]
    return max(abs(math.log(error_of(photo.dice)) - value) for photo, value in zip(photos, predicted, strict=True))


def _auroc(doubt: NDArray[np.float64], bad: NDArray[np.bool_]) -> float | None:
    """The chance that a bad photograph is doubted more than another; None if all or none are bad."""
    if bad.all() or not bad.any():
        return None
    others = doubt[~bad]
    above = (doubt[bad][:, None] > others).mean() + (doubt[bad][:, None] == others).mean() / 2
    return float(above)


def _roc(
    expected: NDArray[np.float64], predicted: NDArray[np.float64], bad: NDArray[np.bool_]
) -> tuple[tuple[float, float, float], ...]:
    """The corners of the ROC curve, the most doubtful photographs first; empty if all or none are bad."""
    if bad.all() or not bad.any():
        return ()
    levels, place = np.unique(expected, return_inverse=True)
    worst, others = (np.bincount(place[part], minlength=len(levels)) for part in (bad, ~bad))
    limits = np.array([predicted[place == level].max() for level in range(len(levels))])
    x, y = np.cumsum(others) / others.sum(), np.cumsum(worst) / worst.sum()
    # Between two corners only one of the two shares grows.
    straight = ((others[:-1] == 0) & (others[1:] == 0)) | ((worst[:-1] == 0) & (worst[1:] == 0))
    kept = np.append(~straight, True)
    corners = zip(x[kept].tolist(), y[kept].tolist(), limits[kept].tolist(), strict=True)
    return (0.0, 0.0, 0.0), *corners


def _risks(predicted: NDArray[np.float64], dice: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    """Points of the risk-coverage curve; photographs with the same predicted Dice are accepted together."""
    limits, place = np.unique(-predicted, return_inverse=True)
    accepted = np.cumsum(np.bincount(place))
    risks = np.cumsum(np.bincount(place, 1 - dice)) / accepted
    shares = np.arange(1, COVERAGES + 1) / COVERAGES
    chosen = np.unique(np.searchsorted(accepted, shares * len(dice) - 1e-9))
    points = accepted[chosen] / len(dice), risks[chosen], -limits[chosen]
    return tuple(zip(*(values.tolist() for values in points), strict=True))
