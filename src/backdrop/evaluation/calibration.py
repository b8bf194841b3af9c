"""Whether a probability means what it says: of the pixels with p = 0.8, eight in ten should be product."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask
from backdrop.evaluation.records import Bin, Calibration

BINS = 16
TOP = 255  # the highest level: p is rounded to the nearest 1/255
PIECE = 1 << 24  # pixels counted at a time: OpenCV counts in float32, which is exact up to here

Levels = NDArray[np.int64]


def count_levels(probability: NDArray[np.float32], truth: Mask) -> Levels:
    """The numbers of pixels of backdrop and of product (2, 256) with each level of probability.

    They are whole numbers, so that the sum over photographs doesn't depend on their order.

    Args:
        probability: (H, W), 0..1.
        truth: (H, W).
    """
    counts = np.zeros((2, TOP + 1), np.int64)
    step = max(1, PIECE // truth.shape[1])
    for rows in (slice(top, top + step) for top in range(0, len(truth), step)):
        levels = cv2.convertScaleAbs(probability[rows], alpha=TOP)
        product = truth[rows].view(np.uint8)
        for index, part in enumerate((1 - product, product)):
            found = cv2.calcHist([levels], [0], part, [TOP + 1], [0, TOP + 1])
            counts[index] += np.rint(found.ravel()).astype(np.int64)
    return counts


def calibrate(photos: Iterable[Levels]) -> Calibration:
    """The expected calibration error of photographs, and their pixels in 16 bins of probability.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv:1706.04599. Every pixel counts the same.
    """
    counts = sum(photos, np.zeros((2, TOP + 1), np.int64))
    pixels = counts.sum(0).reshape(BINS, -1).sum(1)
    product = counts[1].reshape(BINS, -1).sum(1)
    levels = (counts.sum(0) * np.arange(TOP + 1)).reshape(BINS, -1).sum(1)
    gaps = np.abs(levels - product * TOP)  # of whole numbers
    unsure = slice(1, BINS - 1)
    total, between = int(pixels.sum()), int(pixels[unsure].sum())
    return Calibration(
        error=int(gaps.sum()) / TOP / total,
        unsure=between / total,
        unsure_error=int(gaps[unsure].sum()) / TOP / between if between else None,
        bins=tuple(
            Bin(pixels=int(n), probability=int(level) / TOP / int(n), product=int(share) / int(n))
            for n, level, share in zip(pixels, levels, product, strict=True)
            if n
        ),
    )
