"""The uncertainty of a prediction."""

import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask


def unconfidence(probability: NDArray[np.float32], low: float = 0.3, high: float = 0.8, top: float = 0.9) -> float:
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


def _between(probability: NDArray[np.float32], low: float, high: float) -> Mask:
    return np.asarray((probability >= low) & (probability <= high))


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
