"""Finds what is doubtful about a label: where the ensemble that didn't train on it is sure that it is wrong."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask, binarize, resize
from backdrop.inference.uncertainty import Box

Kind = Literal["whole mask", "shifted", "missing part", "extra part", "hole in the mask", "filled hole"]

SURE = 0.1  # a label's pixel is surely wrong if its probability is below this
SAME = 0.5  # masks of a smaller IoU have nothing to do with each other
MOVED = 1 / 3  # of the disagreement must vanish, or a mask isn't called shifted
LEAST = 0.0005  # of the union of both masks: smaller regions are left out
MOST = 8  # regions of a photograph
THIN = 700  # a region thinner than 3 pixels for each 700 of the diagonal is left out: outlines are never certain
SIDE = 512  # longest side of the masks whose displacement is estimated
BLUR = 4.0  # sigma in their pixels, about how far a mask may be moved
ROUNDS = 3


@dataclass(frozen=True)
class Region:
    """A doubtful region of a label.

    Attributes:
        kind: what is probably wrong with it.
        severity: its pixels per pixel of either mask, 0..1.
        pixels: how many pixels are probably wrong.
        box: where it is, in pixels.
    """

    kind: Kind
    severity: float
    pixels: int
    box: Box


def find_regions(probability: NDArray[np.float32], label: Mask) -> list[Region]:
    """The doubtful regions of a label, most severe first, at most 8.

    A label that has little to do with the prediction is one region. If moving it makes much of the disagreement vanish,
    it is shifted; then come the pieces in which the ensemble is sure of the opposite.

    Args:
        probability: (H, W), 0..1, by members that didn't train on the label.
        label: (H, W).
    """
    predicted = binarize(probability)
    wrong = label ^ predicted
    union = _count(label | predicted)
    if not union or not wrong.any():
        return []
    if _count(label & predicted) < SAME * union:
        return [Region("whole mask", _count(wrong) / union, _count(wrong), _box(wrong))]
    found: list[Region] = []
    moved = _move(label, _displacement(label, predicted))
    gain = _count(wrong) - _count(moved ^ predicted)
    if gain >= MOVED * _count(wrong):
        found.append(Region("shifted", gain / union, gain, _box(label)))
        label = moved
    found += _pieces(probability, label, union)
    return sorted(found, key=lambda region: (-region.severity, region.kind, region.box))[:MOST]


def severity(regions: list[Region]) -> float:
    """How doubtful a label is: the severity of its most severe region, 0 without one."""
    return max((region.severity for region in regions), default=0.0)


def _pieces(probability: NDArray[np.float32], label: Mask, union: int) -> Iterator[Region]:
    """The pieces in which the ensemble is sure of the opposite of the label."""
    radius = max(1, round(math.hypot(*label.shape) / THIN))
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    extra, missing = label & (probability < SURE), ~label & (probability > 1 - SURE)
    for wrong, kinds in ((extra, _extra_kind), (missing, _missing_kind)):
        thick = cv2.morphologyEx(wrong.view(np.uint8), cv2.MORPH_OPEN, kernel)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(thick, connectivity=8)
        for number in range(1, len(stats)):
            *box, pixels = map(int, stats[number])
            if pixels >= LEAST * union:
                yield Region(kinds(label, numbers == number), pixels / union, pixels, (box[0], box[1], box[2], box[3]))


def _extra_kind(label: Mask, piece: Mask) -> Kind:
    around = cv2.dilate(piece.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return "filled hole" if bool(label[around].all()) else "extra part"


def _missing_kind(label: Mask, piece: Mask) -> Kind:
    """A hole is a part of the backdrop that doesn't reach the photograph's edge."""
    _, numbers = cv2.connectedComponents((~label).view(np.uint8), connectivity=4)
    edge = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    return "missing part" if np.isin(numbers[piece], edge).any() else "hole in the mask"


def _displacement(label: Mask, predicted: Mask) -> tuple[int, int]:
    """How far to move a label right and down to fit a prediction: Lucas and Kanade's method (1981) on blurred masks."""
    scale = max(1.0, max(label.shape) / SIDE)
    height, width = (max(1, round(side / scale)) for side in label.shape)
    source, target = (
        cv2.GaussianBlur(resize(mask.astype(np.uint8) * 255, height, width).astype(np.float32), (0, 0), BLUR)
        for mask in (label, predicted)
    )
    step = np.zeros(2)
    for _ in range(ROUNDS):
        now = cv2.warpAffine(source, np.array([[1, 0, step[0]], [0, 1, step[1]]]), (width, height))
        slopes = [cv2.Sobel(now, cv2.CV_32F, dx, 1 - dx, scale=1 / 8).ravel().astype(np.float64) for dx in (1, 0)]
        matrix = np.array([[one @ other for other in slopes] for one in slopes])
        if np.linalg.det(matrix) < 1:  # the mask has no outline
            return 0, 0
        step -= np.linalg.solve(matrix, [slope @ (target - now).ravel() for slope in slopes])
    limit = 4 * BLUR
    right, down = (round(float(np.clip(one, -limit, limit)) * scale) for one in step)
    return right, down


def _move(mask: Mask, step: tuple[int, int]) -> Mask:
    """A mask moved right and down; what comes in at the edge is backdrop."""
    height, width = mask.shape
    moved = cv2.warpAffine(mask.view(np.uint8), np.array([[1.0, 0, step[0]], [0, 1, step[1]]]), (width, height))
    return np.asarray(moved, np.uint8).view(bool)


def _box(mask: NDArray[Any]) -> Box:
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return left, top, width, height


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
