"""How well a mask fits the truth along its outline, pixel by pixel at the photograph's own size.

The outline of a mask is those of its pixels that have a pixel outside the mask above, below, left or right of them.
What is beyond the photograph's edge is outside, as in the reference code of boundary IoU.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common.text import dump_table
from backdrop.data.masks import Mask, Overlap

BAND = 0.02  # of the photograph's diagonal: Cheng et al. 2021
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

Bits = NDArray[Any]  # a mask of bytes 0 and 1


@dataclass(frozen=True)
class Measures:
    """A photograph's mask against its truth; two empty masks agree (1.0).

    Attributes:
        iou: intersection over union, 0..1.
        boundary_iou: IoU of the parts of both masks within 2 % of the photograph's diagonal of their own outline, by
            rows and columns, 0..1. Cheng et al., "Boundary IoU" (2021), arXiv:2103.16562.
        nsd_1: normalized surface distance, 0..1: the share of both outlines' pixels with a pixel of the other outline
            at most 1 pixel away. Nikolov et al. (2018), arXiv:1809.04430.
        nsd_2: the same at 2 pixels.
        nsd_4: the same at 4 pixels.
        boundary_error: mean distance of the mask's outline from the true one in pixels: positive where the mask is too
            wide, negative where it is too narrow, each pixel at most 2 % of the diagonal. Distances are right to 2 %
            (Borgefors 1986). None if a mask is empty.
    """

    iou: float
    boundary_iou: float
    nsd_1: float
    nsd_2: float
    nsd_4: float
    boundary_error: float | None


NAMES = tuple(field.name for field in fields(Measures))
HEAD = ["image", *NAMES]


def measure_mask(prediction: Mask, truth: Mask) -> Measures:
    """Measures a mask (H, W) against its truth (H, W)."""
    box = cv2.boundingRect((prediction | truth).view(np.uint8))
    if not (prediction.any() and truth.any()):
        same = 0.0 if any(box) else 1.0
        return Measures(same, same, same, same, same, None)
    width = max(1, round(BAND * math.hypot(*truth.shape)))
    found, true = _cut(prediction, box), _cut(truth, box)
    overlap = Overlap()
    overlap.add(found.view(bool), true.view(bool))
    outlines = found - _erode(found, CROSS), true - _erode(true, CROSS)
    bands = _band(found, width), _band(true, width)
    return Measures(
        overlap.common / (overlap.total - overlap.common),
        int(np.count_nonzero(bands[0] & bands[1])) / int(np.count_nonzero(bands[0] | bands[1])),
        _surface_dice(outlines, 1),
        _surface_dice(outlines, 2),
        _surface_dice(outlines, 4),
        _signed(outlines, true, width),
    )


def dump_measures(measures: Mapping[str, Measures]) -> bytes:
    """`measures.csv` as bytes, a row per image sorted by name; equal measures give equal bytes."""

    def cells(image: str) -> list[str]:
        values = (getattr(measures[image], name) for name in NAMES)
        return [image, *("" if value is None else repr(float(value)) for value in values)]

    return dump_table(HEAD, map(cells, sorted(measures)))


def _cut(mask: Mask, box: Sequence[int]) -> Bits:
    """What is in a box, with a pixel of background around it."""
    left, top, width, height = box
    return np.pad(mask[top : top + height, left : left + width].view(np.uint8), 1)


def _erode(bits: Bits, kernel: NDArray[Any]) -> Bits:
    return cv2.erode(bits, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.uint8, copy=False)


def _band(bits: Bits, width: int) -> Bits:
    """The part of a mask within `width` pixels of its outside, by rows and columns."""
    return bits - _erode(bits, np.ones((2 * width + 1, 2 * width + 1), np.uint8))


def _surface_dice(outlines: tuple[Bits, Bits], tolerance: int) -> float:
    steps = np.arange(-tolerance, tolerance + 1) ** 2
    disk = (steps[:, None] + steps <= tolerance**2).astype(np.uint8)
    near = (np.count_nonzero(cv2.dilate(one, disk) & other) for one, other in (outlines, outlines[::-1]))
    return int(sum(near)) / int(sum(map(np.count_nonzero, outlines)))


def _signed(outlines: tuple[Bits, Bits], true: Bits, width: int) -> float:
    """The mean signed distance of the found outline from the true one; by a mask of 5x5, in a third of the time."""
    found, real = outlines
    places = found > 0
    distances = cv2.distanceTransform(1 - real, cv2.DIST_L2, cv2.DIST_MASK_5)[places].astype(np.float64)
    distances = np.minimum(distances, width)
    return float(np.where(true[places] > 0, -distances, distances).mean())
