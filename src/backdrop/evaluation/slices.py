"""Groups of photographs: by view, by what they show, or by what is known of their objects."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask
from backdrop.evaluation.records import Score

# The thirds that photographs are grouped into by a slice of numbers.
THIRDS = {"area": ("small", "medium", "large"), "brightness": ("dark", "medium", "bright")}
LEVELS = ("low", "medium", "high")
UNKNOWN = "unknown"
EDGE = 0.002  # share of the diagonal: how far from the outline the contrast across it is measured


def measure_traits(image: NDArray[np.uint8], truth: Mask) -> dict[str, str]:
    """What a photograph shows, as columns of `images.csv`; without a product or a backdrop, what needs it is left out.

    `brightness` is the mean of the product's pixels over all colors, 0..1. `contrast` is how far the product's mean
    color is from the backdrop's, 0..1: the root mean square over the three colors. `edge_contrast` is the same of what
    is near the outline on either side, piece by piece: the mean over the squares of a grid that the outline crosses.

    Args:
        image: (H, W, 3) RGB.
        truth: its mask (H, W).
    """
    traits = {}
    product = np.array(cv2.mean(image, truth.view(np.uint8))[:3]) / 255
    if truth.any():
        traits["brightness"] = f"{product.mean():.4f}"
    if truth.any() and not truth.all():
        backdrop = np.array(cv2.mean(image, (~truth).view(np.uint8))[:3]) / 255
        traits["contrast"] = f"{math.sqrt(((product - backdrop) ** 2).mean()):.4f}"
        traits["edge_contrast"] = f"{_edge_contrast(image, truth):.4f}"
    return traits


def slice_groups(scores: Sequence[Score], name: str) -> list[str]:
    """Each image's group in a slice.

    Numbers with more than three values are split into thirds of the images; otherwise each value is a group.

    Args:
        scores: the images.
        name: `view`, `area`, or a trait; an image without the trait belongs to the group `unknown`.
    """
    values = [score.view if name == "view" else _trait(score, name) for score in scores]
    numbers = {value: _number(value) for value in values if value != UNKNOWN}
    known = [numbers[value] for value in values if value in numbers]
    if name == "view" or len(set(known)) <= len(LEVELS) or not np.isfinite(known).all():
        return values
    names, limits = THIRDS.get(name, LEVELS), np.quantile(known, [1 / 3, 2 / 3])
    return [names[int(np.searchsorted(limits, numbers[v]))] if v in numbers else v for v in values]


def group_order(group: str) -> tuple[int, str]:
    """A key to sort a slice's groups by: thirds ascending, others by name."""
    ranks = {name: rank for names in (*THIRDS.values(), LEVELS) for rank, name in enumerate(names)}
    return ranks.get(group, len(ranks)), group


def _trait(score: Score, name: str) -> str:
    return str(score.area) if name == "area" else score.traits.get(name, UNKNOWN)


def _number(text: str) -> float:
    """NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _edge_contrast(image: NDArray[np.uint8], truth: Mask) -> float:
    """The contrast across the outline of a mask that is neither empty nor full."""
    width = max(2, round(EDGE * math.hypot(*truth.shape)))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    left, top, across, down = cv2.boundingRect(truth.view(np.uint8))
    part = np.s_[max(0, top - width) : top + down + width, max(0, left - width) : left + across + width]
    product, image = np.ascontiguousarray(truth[part]).view(np.uint8), image[part]
    bands = product - cv2.erode(product, kernel), cv2.dilate(product, kernel) - product
    for side in (4 * width, max(product.shape)):  # all in one square, if none has both sides of the outline
        inside, outside = (_square_means(image, band, side) for band in bands)
        contrasts = np.sqrt(((inside - outside) ** 2).mean(1))
        known = contrasts[np.isfinite(contrasts)]
        if len(known):
            break
    return float(known.mean()) / 255


def _square_means(image: NDArray[np.uint8], band: NDArray[Any], side: int) -> NDArray[np.float64]:
    """The mean color of a band in each square of a grid (N, 3); NaN where the band has no pixels."""
    columns, lines = (-(-length // side) for length in (band.shape[1], band.shape[0]))
    rows, places = np.divmod(np.flatnonzero(band.view(bool)), band.shape[1])  # faster than nonzero
    squares, colors = rows // side * columns + places // side, image[rows, places]
    pixels = np.bincount(squares, minlength=columns * lines).astype(np.float64)
    pixels[pixels == 0] = math.nan
    return np.stack([np.bincount(squares, colors[:, c], len(pixels)) / pixels for c in range(3)], 1)
