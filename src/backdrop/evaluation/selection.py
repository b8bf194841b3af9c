"""Which objects to label next: those that a model doubts, unlike one another and unlike the labeled ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backdrop.evaluation.statistics import IMAGE_NAMES

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """An object to label: how doubtful its masks are, and how far it is from what is labeled or chosen before it."""

    object: str
    doubt: float
    distance: float


def choose(
    doubts: Mapping[str, float], looks: Mapping[str, Vector], labeled: Sequence[Vector], count: int
) -> list[Choice]:
    """Chooses objects one after another: each time the one whose doubt times distance is the largest.

    The distance is that to the nearest object that is labeled or was chosen before: the root mean square difference
    of their looks, each figure in standard deviations over all objects. So an object that looks like one that was
    chosen isn't chosen, too, however doubtful it is; of equals, the first by name is chosen. If nothing is labeled, the
    most doubtful is chosen first, with an infinite distance.

    Args:
        doubts: of each object that isn't labeled, 0..1; of one at least.
        looks: their figures, as from `look`.
        labeled: those of the labeled objects.
        count: how many objects to choose.
    """
    names = sorted(doubts)
    values = np.array([*(looks[name] for name in names), *labeled])
    spread = values.std(0)
    values = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
    doubt, own = np.array([doubts[name] for name in names]), values[: len(names)]
    distance = np.full(len(names), np.inf)
    for other in values[len(names) :]:
        distance = np.minimum(distance, _distances(own, other))
    chosen: list[Choice] = []
    left = np.ones(len(names), bool)
    while left.any() and len(chosen) < count:
        score = np.where(left, doubt * np.where(np.isfinite(distance), distance, 1.0), -1.0)
        best = int(score.argmax())
        chosen.append(Choice(names[best], float(doubt[best]), float(distance[best])))
        left[best] = False
        distance = np.minimum(distance, _distances(own, own[best]))
    return chosen


def look(photographs: Sequence[Mapping[str, float]]) -> Vector:
    """An object's looks: the mean of its photographs' statistics that don't depend on a mask."""
    table = np.array([[values[name] for name in IMAGE_NAMES] for values in photographs])
    return np.asarray(table.mean(0))


def _distances(values: Vector, other: Vector) -> Vector:
    return np.asarray(np.sqrt(((values - other) ** 2).mean(1)))
