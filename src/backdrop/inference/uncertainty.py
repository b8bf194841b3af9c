"""The uncertainty of a prediction."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.config import PredictedDice
from backdrop.data.masks import Mask
from backdrop.inference.alpha import band_width

LOW, HIGH = 0.3, 0.8  # between them, a pixel is uncertain
LITTLE = 1e-4  # no Dice is known better
TOP = 0.9  # above it, a pixel is certain foreground
MAX_REGIONS = 20
REGIONS_A_SIDE = 8

Box = tuple[int, int, int, int]  # left, top, width, height


def unconfidence(probability: NDArray[np.float32], low: float = LOW, high: float = HIGH, top: float = TOP) -> float:
    """The winners' uncertainty score: uncertain pixels per pixel that counts as certain background.

    n(low <= p <= high) / max(1, n(p < low) + n(high < p <= top)). Source: the winners' interview.

    Args:
        probability: (H, W) float32, 0..1. Limits are rounded to float32 too, so that 0.8 is not above 0.8.
        low: lower limit of uncertainty.
        high: upper limit of uncertainty.
        top: pixels above it are certain foreground and don't count.
    """
    uncertain, certain = _counts(probability, low, high, top)
    return uncertain / max(1, certain)


class Doubt:
    """The unconfidence of several networks' probabilities of one photograph, each taken by itself.

    It is that of the mean numbers of uncertain and certain pixels. Unlike the unconfidence of the mean probability,
    whose edges are softer the more networks there are, its scale doesn't depend on their number.
    """

    def __init__(self) -> None:
        self.uncertain = self.certain = self.weight = 0

    def add(self, probability: NDArray[np.float32], weight: int) -> None:
        """Adds a network's probability (H, W), or some of its rows, with an integer weight."""
        uncertain, certain = _counts(probability, LOW, HIGH, TOP)
        self.uncertain += weight * uncertain
        self.certain += weight * certain
        self.weight += weight

    def value(self) -> float:
        """The unconfidence, from 0."""
        return self.uncertain / max(self.weight, self.certain)


class DiceRange(NamedTuple):
    """The Dice that a photograph's mask probably has, 0..1, and the interval in which it is."""

    dice: float
    low: float
    high: float


def expected_dice(probability: NDArray[np.float32], mask: Mask) -> float:
    """The Dice of a mask (H, W) if each pixel belongs to the product with its probability (H, W): 0..1, 1 for nothing.

    2 * sum of p over the mask / (sum of p + pixels of the mask). It says more about the real Dice than `unconfidence`.
    """
    pixels = _count(mask)
    total = float(probability.sum(dtype=np.float64)) + pixels
    return 2 * float(probability.sum(dtype=np.float64, where=mask)) / total if total > 0 else 1.0


def error_of(dice: float) -> float:
    """One minus a Dice, and a little, so that its logarithm exists."""
    return 1 + LITTLE - dice


def predict_dice(rule: PredictedDice, expected: float) -> DiceRange:
    """A photograph's Dice by a rule from its `expected_dice`."""
    value = rule.intercept + rule.slope * math.log(error_of(expected))
    middle, low, high = (
        min(1.0, max(0.0, error_of(math.exp(value + shift)))) for shift in (0.0, rule.spread, -rule.spread)
    )
    return DiceRange(middle, low, high)


def uncertain_regions(probability: NDArray[np.float32]) -> list[Box]:
    """The boxes in pixels of uncertain regions, the largest region first, at most 20.

    An outline is always uncertain; a region is wider than the band that `make_matte` makes partly transparent. A region
    longer than an eighth of the photograph is cut up, because the box of one around a product would be all of it.

    Args:
        probability: (H, W) float32, 0..1.
    """
    side = 2 * band_width(*probability.shape) + 1
    uncertain = _between(probability, LOW, HIGH).astype(np.uint8)
    wide = cv2.morphologyEx(uncertain, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    step = max(side, max(probability.shape) // REGIONS_A_SIDE)
    wide[step::step] = wide[:, step::step] = 0
    _, _, stats, _ = cv2.connectedComponentsWithStats(wide, connectivity=8)
    largest = sorted(stats[1:].tolist(), key=lambda region: (-region[cv2.CC_STAT_AREA], *region))
    return [tuple(region[:4]) for region in largest[:MAX_REGIONS]]


def _counts(probability: NDArray[np.float32], low: float, high: float, top: float) -> tuple[int, int]:
    """The numbers of uncertain pixels, and of certain ones that are not foreground."""
    certain = _count(probability < low) + _count((probability > high) & (probability <= top))
    return _count(_between(probability, low, high)), certain


def _between(probability: NDArray[np.float32], low: float, high: float) -> Mask:
    return np.asarray((probability >= low) & (probability <= high))


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
