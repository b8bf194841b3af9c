"""From an ensemble's probability to its mask: the operations of `config/postprocessing.py`."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.config.postprocessing import BestMembers, DropSmall, FillHoles, Hull, Operation, Threshold, UnreliableTop
from backdrop.data.masks import Mask, binarize
from backdrop.inference.uncertainty import unconfidence

Probability = NDArray[np.float32]
Contour = NDArray[np.int32]
# Returns the mean probability (H, W) of a photograph over the members of these recipes only.
MeanOf = Callable[[tuple[str, ...]], Probability]


def repair(probability: Probability, view: str, operations: Sequence[Operation], mean_of: MeanOf) -> Mask:
    """The mask (H, W) of a photograph after all operations, `best_members` included.

    Args:
        probability: all members' mean (H, W), 0..1.
        view: the photograph's view.
        operations: in order.
        mean_of: returns the mean of some recipes' members; called only for `best_members`.
    """
    names = choose_recipes(probability, view, operations)
    return apply(mean_of(names) if names else probability, operations)


def choose_recipes(probability: Probability, view: str, operations: Sequence[Operation]) -> tuple[str, ...]:
    """The recipes that `best_members` selects for a photograph; empty if all members are used."""
    for operation in operations:
        if isinstance(operation, BestMembers):
            score = unconfidence(probability, operation.low, operation.high)
            return operation.recipes.get(view, ()) if score > operation.unconfidence_above else ()
    return ()


def apply(probability: Probability, operations: Sequence[Operation]) -> Mask:
    """The mask (H, W) of a probability (H, W), 0..1, after the operations in order; without operations, p > 0.5.

    `best_members` has no effect here: it selects the members before (see `choose_recipes`).
    """
    mask = binarize(probability)
    for operation in operations:
        mask = _apply(operation, probability, mask)
    return mask


def _apply(operation: Operation, probability: Probability, mask: Mask) -> Mask:
    match operation:
        case Threshold():
            return np.asarray(probability > operation.level)
        case FillHoles():
            return _fill_holes(mask, operation.max_area * mask.size)
        case DropSmall():
            return _drop_small(mask, operation.min_area * mask.size)
        case Hull():
            return _add_hulls(operation, probability, mask)
        case UnreliableTop():
            return _repair_top(operation, probability, mask)
        case BestMembers():
            return mask


def _fill_holes(mask: Mask, max_pixels: float) -> Mask:
    """Fills enclosed background (4-connected, not at the border) of at most `max_pixels`."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(_bytes(~mask), connectivity=4)
    left, top, width, height, area = stats.T
    enclosed = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    hole = enclosed & (area <= max_pixels)
    hole[0] = False  # the mask itself
    return np.asarray(mask | hole[labels])


def _drop_small(mask: Mask, min_pixels: float) -> Mask:
    """Drops pieces (8-connected) of fewer than `min_pixels`, but keeps the largest."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(_bytes(mask), connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    kept = area >= min(min_pixels, area[1:].max(initial=0))
    kept[0] = False  # the background
    return np.asarray(kept[labels])


def _add_hulls(operation: Hull, probability: Probability, mask: Mask) -> Mask:
    doubtful = _bytes((probability >= operation.low) & (probability <= operation.high))
    side = 2 * round(operation.strip * mask.shape[0]) + 1
    wide = cv2.morphologyEx(doubtful, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(wide, connectivity=8)
    result = mask.copy()
    for label, (left, top, width, height, area) in enumerate(stats[1:], start=1):
        box = np.s_[top : top + height, left : left + width]
        if area >= operation.min_area * mask.size:
            contour = _largest_contour((labels[box] == label) & (probability[box] > operation.level))
            if contour is not None:
                result[box] |= _hull(contour, height, width)
    return result


def _repair_top(operation: UnreliableTop, probability: Probability, mask: Mask) -> Mask:
    rows = len(mask)
    doubtful = _bytes((probability > operation.low) & (probability < operation.high))
    eroded = cv2.erode(doubtful, np.ones((2 * round(operation.strip * rows) + 1, 1), np.uint8))
    region = _largest_contour(eroded[: rows // 2] > 0)
    if region is None or cv2.contourArea(region) <= operation.min_area * mask.size:
        return mask
    left, top, width, height = cv2.boundingRect(region)
    margin = round(operation.margin * rows)
    # A slice may end beyond the photograph, but a negative start would count from the other side.
    box = np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
    contour = _largest_contour(probability[box] > operation.level)
    if contour is None:
        return mask
    result = mask.copy()
    result[box] = _hull(contour, *result[box].shape)
    return result


def _largest_contour(mask: Mask) -> Contour | None:
    """The outer contour (N, 1, 2) of the piece (8-connected) with the largest enclosed area; None if there is none."""
    contours, _ = cv2.findContours(_bytes(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(contours, key=cv2.contourArea), np.int32) if contours else None


def _hull(contour: Contour, height: int, width: int) -> Mask:
    """The pixels (height, width) in a contour's convex hull; OpenCV's fill adds all pixels that the outline touches."""
    corners = cv2.convexHull(contour)[:, 0].tolist()
    left, right = np.full((height, 1), width), np.full((height, 1), -1)
    for ends in zip(corners, [*corners[1:], corners[0]], strict=True):
        (x, top), (other, bottom) = sorted(ends, key=lambda corner: corner[1])
        rows = np.s_[top : bottom + 1]
        run, rise = np.arange(bottom - top + 1)[:, None] * (other - x), max(1, bottom - top)
        left[rows] = np.minimum(left[rows], x - (-run // rise))
        right[rows] = np.maximum(right[rows], x + run // rise)
    columns = np.arange(width)
    return (left <= columns) & (columns <= right)


def _bytes(mask: Mask) -> NDArray[np.uint8]:
    return mask.astype(np.uint8)
