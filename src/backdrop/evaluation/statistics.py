"""A few figures of each photograph and of its mask, which need no label: what `drift` and `next` compare.

None depends on a photograph's size, as long as it has at least SIDE pixels a side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage, text
from backdrop.common.errors import StorageError, shorten
from backdrop.data.masks import Mask, resize
from backdrop.inference.uncertainty import expected_dice, unconfidence

SIDE = 512  # pixels: photographs are compared as squares of this size
BORDER = SIDE // 16  # width of the strip along the picture's edge, where there is no product
IMAGE_NAMES = (
    "brightness",
    "contrast",
    "sharpness",
    "border_red",
    "border_green",
    "border_blue",
    "border_spread",
)
MASK_NAMES = ("expected_dice", "unconfidence", "area", "center_x", "center_y", "width", "height")
NAMES = (*IMAGE_NAMES, *MASK_NAMES)
COLUMNS = ["image", "object", "view", "fold"]
# How far the figures of one photograph may lie apart: decoders and processors round differently.
SAME = 1e-5


@dataclass(frozen=True)
class Statistics:
    """A photograph's figures, by their names in NAMES: a row of `statistics.csv`.

    `fold` is as in a plan's CSV, and empty for a photograph that isn't in a plan.
    """

    image: str
    object: str
    view: str
    fold: str
    values: dict[str, float]


def measure_image(image: NDArray[np.uint8]) -> dict[str, float]:
    """The figures of a photograph alone, all from 0.

    It is first shrunk to SIDE x SIDE by area means. Gray is the mean of red, green and blue, 0..1. `brightness` is its
    mean, `contrast` its standard deviation, and `sharpness` the mean absolute difference of neighboring pixels divided
    by the contrast, which doesn't depend on the light; 0 without contrast. `border_red`, `border_green` and
    `border_blue` are the mean color along the picture's edge, a sixteenth of each side wide, 0..1, and `border_spread`
    is the standard deviation of gray there.

    Args:
        image: (H, W, 3) RGB.
    """
    small = resize(image, SIDE, SIDE) / np.float32(255)
    gray = cv2.transform(small, np.full((1, 3), 1 / 3, np.float32))
    edge = np.ones(gray.shape, np.uint8)
    edge[BORDER:-BORDER, BORDER:-BORDER] = 0
    red, green, blue, _ = cv2.mean(small, edge)
    brightness, contrast = (float(value.item()) for value in cv2.meanStdDev(gray))
    steps = [float(np.abs(np.diff(gray, axis=axis)).mean(dtype=np.float64)) for axis in (0, 1)]
    return {
        "brightness": brightness,
        "contrast": contrast,
        "sharpness": sum(steps) / 2 / contrast if contrast > 0 else 0.0,
        "border_red": red,
        "border_green": green,
        "border_blue": blue,
        "border_spread": float(cv2.meanStdDev(gray, mask=edge)[1].item()),
    }


def measure_prediction(probability: NDArray[np.float32], mask: Mask) -> dict[str, float]:
    """The figures of a prediction: the Dice that it expects, its unconfidence, and where its mask is.

    `area` is the mask's share of the picture, `center_x`, `center_y`, `width` and `height` are the middle and the sides
    of its box as shares of the picture's sides. The box of an empty mask is a point in the middle.

    Args:
        probability: (H, W), 0..1.
        mask: (H, W), made of it.
    """
    rows, columns = mask.shape
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8)) if mask.any() else (columns / 2, rows / 2, 0, 0)
    return {
        "expected_dice": expected_dice(probability, mask),
        "unconfidence": unconfidence(probability),
        "area": int(np.count_nonzero(mask)) / mask.size,
        "center_x": (left + width / 2) / columns,
        "center_y": (top + height / 2) / rows,
        "width": width / columns,
        "height": height / rows,
    }


def find_renamed(rows: Iterable[Statistics], known: Iterable[Statistics]) -> dict[str, str]:
    """Objects with a photograph that is also one of an object of another name, by its figures alone.

    Args:
        rows: of the photographs to look for.
        known: of those to look among.

    Returns:
        The first other name of each such object.
    """
    ordered = sorted(known, key=lambda row: row.values["brightness"])
    figures = np.array([_figures(row) for row in ordered]).reshape(-1, len(IMAGE_NAMES))
    renamed: dict[str, str] = {}
    for row in rows:
        own = _figures(row)
        first, last = np.searchsorted(figures[:, 0], (own[0] - SAME, own[0] + SAME))
        near = [place for place in range(first, last) if np.abs(figures[place] - own).max() <= SAME]
        for name in sorted({ordered[place].object for place in near} - {row.object}):
            renamed.setdefault(row.object, name)
    return renamed


def _figures(row: Statistics) -> NDArray[np.float64]:
    """The figures of a photograph alone, `brightness` first."""
    return np.array([row.values[name] for name in IMAGE_NAMES])


def dump_statistics(rows: Iterable[Statistics]) -> bytes:
    """`statistics.csv` as bytes, a row per image sorted by name; equal figures give equal bytes."""
    return text.dump_table(
        [*COLUMNS, *NAMES],
        (
            [row.image, row.object, row.view, row.fold, *(repr(row.values[name]) for name in NAMES)]
            for row in sorted(rows, key=lambda row: row.image)
        ),
    )


def read_statistics(path: str | Path) -> list[Statistics]:
    """Reads `statistics.csv`.

    Raises:
        StorageError: if the file can't be read, or isn't what `dump_statistics` writes.
    """
    try:
        _, rows = text.read_table(text.decode(storage.read_bytes(path)), [*COLUMNS, *NAMES])
        return [_row(cells) for _, cells in rows]
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({shorten(error)})", "Run `backdrop evaluate` again") from error


def _row(cells: Sequence[str]) -> Statistics:
    values = dict(zip(NAMES, map(float, cells[len(COLUMNS) :]), strict=True))
    if not np.isfinite([*values.values()]).all():
        raise ValueError(f"a figure of {cells[0]} is not a number")
    return Statistics(cells[0], cells[1], cells[2], cells[3], values)
