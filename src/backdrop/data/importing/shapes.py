"""Makes masks from polygons, circles, and COCO's run-length encoding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backdrop.data.masks import Mask


def fill_polygon(points: Any, height: int, width: int) -> Mask:
    """The pixels (H, W) whose centers are inside a polygon, by the even-odd rule.

    Args:
        points: its corners, x and y in pixels; 0, 0 is the upper left corner of the first pixel.
        height: the mask's, in pixels.
        width: the mask's, in pixels.

    Raises:
        ValueError: if the points aren't at least three pairs of numbers.
    """
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
    mask = np.zeros((height, width), bool)
    if not np.isfinite(corners).all() or len(corners) < 3:
        raise ValueError("a polygon needs three points or more")
    centers = np.arange(width) + 0.5
    for row in range(max(0, int(y.min()) - 1), min(height, int(y.max()) + 1)):
        center = row + 0.5
        crossed = (y <= center) != (next_y <= center)
        across, up = (next_x - x)[crossed], (next_y - y)[crossed]
        edges = np.sort(x[crossed] + (center - y[crossed]) * across / up)
        mask[row] = np.searchsorted(edges, centers, side="right") % 2
    return mask


def fill_circle(center: Any, edge: Any, height: int, width: int) -> Mask:
    """The pixels (H, W) whose centers are inside a circle, given by its center and a point on its edge."""
    (x, y), (edge_x, edge_y) = center, edge
    rows, columns = np.ogrid[:height, :width]
    mask: Mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (edge_x - x) ** 2 + (edge_y - y) ** 2
    return mask


def decode_coco_rle(counts: Any, height: int, width: int) -> Mask:
    """Decodes COCO's run lengths to a mask (H, W): column by column, zeros first; a list of numbers or COCO's text.

    Raises:
        ValueError: if they don't add up to the mask's pixels.
    """
    lengths = _unpack(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError("run lengths don't fit the image")
    return np.repeat(np.arange(lengths.size) % 2 > 0, lengths).reshape(width, height).T


def _unpack(text: str) -> NDArray[np.int64]:
    """Decodes COCO's text to run lengths: five bits per character, lowest first.

    In a character, 32 marks that more follow, and 16 is the sign. From the fourth on, a number is the difference to the
    one before the last. Source: pycocotools' maskApi.c, rleFrString.
    """
    numbers: list[int] = []
    value = shift = 0
    for code in (byte - 48 for byte in text.encode("ascii", "replace")):
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4) if code & 16 else 0
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return np.array(numbers, np.int64)
