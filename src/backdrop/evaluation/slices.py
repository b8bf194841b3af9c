"""Groups of photographs: by view, by what they show, or by what is known of their objects."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask
from backdrop.evaluation.records import Score

# The thirds that photographs are grouped into by a slice of numbers.
THIRDS = {"area": ("small", "medium", "large"), "brightness": ("dark", "medium", "bright")}
LEVELS = ("low", "medium", "high")
UNKNOWN = "unknown"


def measure_traits(image: NDArray[np.uint8], truth: Mask) -> dict[str, str]:
    """What a photograph shows, as columns of `images.csv`; without a product or a backdrop, what needs it is left out.

    `brightness` is the mean of the product's pixels over all colors, 0..1. `contrast` is how far the product's mean
    color is from the backdrop's, 0..1: the root mean square over the three colors.

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


def _trait(score: Score, name: str) -> str:
    return str(score.area) if name == "area" else score.traits.get(name, UNKNOWN)


def _number(text: str) -> float:
    """NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
