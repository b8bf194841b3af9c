"""The uncertainty of a prediction."""

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask
from backdrop.inference.alpha import band_width

LOW, HIGH = 0.3, 0.8  # between them, a pixel is uncertain
MAX_REGIONS = 20
REGIONS_A_SIDE = 8

Box = tuple[int, int, int, int]  # left, top, width, height


def unconfidence(probability: NDArray[np.float32], low: float = LOW, high: float = HIGH, top: float = 0.9) -> float:
    """The winners' uncertainty score: uncertain pixels per pixel that counts as certain background.

    n(low <= p <= high) / max(1, n(p < low) + n(high < p <= top)). Source: the winners' interview.

    Args:
        probability: (H, W) float32, 0..1. Limits are rounded to float32 too, so that 0.8 is not above 0.8.
        low: lower limit of uncertainty.
        high: upper limit of uncertainty.
        top: pixels above it are certain foreground and don't count.
    """
    uncertain = _count(_between(probability, low, high))
    return uncertain / max(1, _count(probability < low) + _count((probability > high) & (probability <= top)))


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


def _between(probability: NDArray[np.float32], low: float, high: float) -> Mask:
    return np.asarray((probability >= low) & (probability <= high))


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
