"""Pictures of predictions and their errors, and curves of training.

Images are (H, W, 3) RGB, 0..255; masks (H, W).
"""

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common.environment import environment
from backdrop.data.masks import Mask, binarize, resize

Image = NDArray[np.uint8]

PANE = 280  # width of one pane of a panel, pixels
TALLEST = 2 * PANE  # a taller photograph is squeezed to this height
STRIP = 22  # height of the caption under a pane
GAP = 2
TEXT = 0.48  # OpenCV font scale of the captions
# Okabe and Ito's vermilion, blue (both lightened) and bluish green, distinguishable by color-blind people.
MISSING, SURPLUS, TRUE = (226, 84, 12), (24, 142, 255), (0, 158, 115)
INK, PAPER, GRAY = (225, 228, 232), (27, 30, 34), (128, 128, 128)
PIECE = 10_000_000  # pixels that are computed on at a time
CLOSE_UP = 8  # a close-up shows this part of the width
PERFECT = 1e-5  # 1 - Dice below this is drawn as this
DICE_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
BOOST = 4  # errors that cover a quarter of a pixel already get the full color


def panel(image: Image, truth: Mask, prediction: NDArray[np.floating[Any]] | Mask) -> Image:
    """Six panes: photograph, truth, prediction; signed error, and a close-up where the error is largest.

    Missing pixels (false negatives) are orange, surplus pixels (false positives) blue. They are exaggerated if the
    panel is smaller than the photograph, so that an error one pixel wide stays visible.

    Args:
        image: the photograph.
        truth: its mask.
        prediction: probability 0..1, or a mask.

    Returns:
        One picture of six panes with captions.
    """
    predicted = binarize(prediction)
    missing, surplus = truth & ~predicted, predicted & ~truth
    part = _close_up(missing | surplus)
    height = min(TALLEST, max(1, round(PANE * image.shape[0] / image.shape[1])))
    error = _error(image, missing, surplus, height)
    _frame(error, part, height / image.shape[0], PANE / image.shape[1])
    legend = [("error:", INK), ("missing", MISSING), ("surplus", SURPLUS)]
    panes = [
        _captioned(_fit(image, height), [("photograph", INK)]),
        _captioned(_gray(truth, height), [("truth", INK)]),
        _captioned(_gray(prediction, height), [("prediction", INK)]),
        _captioned(error, legend),
        _captioned(_fit(image[part], height), [("close-up", INK)]),
        _captioned(_error(image[part], missing[part], surplus[part], height), [("close-up of the error", INK)]),
    ]
    return _beside([_beside(panes[:3], 1), _beside(panes[3:], 1)], 0)


def doubt_panel(image: Image, label: Mask, prediction: Mask, box: tuple[int, int, int, int]) -> Image:
    """Two panes, both with the outlines of two masks: the photograph with a frame around a close-up, and the close-up.

    The label's outline is orange, the prediction's blue.

    Args:
        image: the photograph.
        label: the mask that is in doubt.
        prediction: the ensemble's.
        box: the region to show: left, top, width and height.
    """
    return _outlined(image, _around(box, label.shape), [("label", label, MISSING), ("ensemble", prediction, SURPLUS)])


def difference_panel(image: Image, truth: Mask, challenger: Mask, champion: Mask) -> Image:
    """Two panes with the outlines of three masks: the photograph with a frame around a close-up, and the close-up.

    It is where the two predictions differ most. The challenger's outline is blue, the champion's orange, the true one a
    green line beneath both.

    Args:
        image: the photograph.
        truth: its mask.
        challenger: one prediction.
        champion: the other.
    """
    masks = [("truth", truth, TRUE), ("champion", champion, MISSING), ("challenger", challenger, SURPLUS)]
    return _outlined(image, _close_up(challenger ^ champion), masks)


def pair(image: Image, result: Image) -> Image:
    """Two panes of one size: a photograph, and what was made of it, which may have another shape."""
    height = min(TALLEST, max(1, round(PANE * image.shape[0] / image.shape[1])))
    scale = min(height / result.shape[0], PANE / result.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in result.shape[:2])
    pane = np.full((height, PANE, 3), GRAY, np.uint8)
    top, left = (height - rows) // 2, (PANE - columns) // 2
    pane[top : top + rows, left : left + columns] = resize(result, rows, columns)
    return _beside([_fit(image, height), pane], 1)


def data_uri(picture: Image, limit_bytes: int) -> str:
    """A picture as a `data:` URI of at most `limit_bytes`, with a JPEG as `encode_jpeg` makes it."""
    head = "data:image/jpeg;base64,"
    data = encode_jpeg(picture, (limit_bytes - len(head)) // 4 * 3)
    return f"{head}{base64.b64encode(data).decode()}"


def stack(pictures: Sequence[Image]) -> Image:
    """Pictures of one width below each other; narrower ones get a margin on the right."""
    width = max(picture.shape[1] for picture in pictures)
    margins = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=GRAY[0]) for one in pictures]
    return _beside(margins, 0)


def encode_jpeg(picture: Image, limit_bytes: int) -> bytes:
    """A JPEG of the best quality within `limit_bytes`; if quality 50 is still too large, the picture is scaled down."""
    while True:
        for quality in (88, 80, 70, 60, 50):
            _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            if len(data) <= limit_bytes or max(picture.shape[:2]) < 64:
                return data.tobytes()
        picture = resize(picture, max(1, picture.shape[0] * 3 // 4), max(1, picture.shape[1] * 3 // 4))


def curves(history: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of loss, Dice and learning rate over the epochs; equal histories give equal bytes.

    A user's or a folder's matplotlibrc changes nothing.

    Args:
        history: rows of `metrics.jsonl`.
    """
    # Imported here, because the import takes a second.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns that it can't keep its list of fonts
    with environment(MPLBACKEND=None):  # one that isn't installed would fail the import, and none is needed
        from matplotlib import rc_context, rcdefaults
    with rc_context():
        rcdefaults()
        return _draw(history)


def _draw(history: Sequence[Mapping[str, Any]]) -> bytes:
    # Figure without pyplot needs no display and has no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(12, 3.2), dpi=100)
    figure.subplots_adjust(
        left=0.05, right=0.99, bottom=0.15, top=0.9, wspace=0.25
    )  # computing a layout takes a third longer
    FigureCanvasAgg(figure)
    panes = (("loss", "loss"), ("dice", "out-of-fold Dice"), ("lr", "learning rate"))
    for axes, (key, title) in zip(figure.subplots(1, 3), panes, strict=True):
        values = np.array([number(row.get(key)) for row in history])
        if key == "dice":  # drawn as 1 - Dice, as in the report
            values = np.maximum(PERFECT, 1 - values)
        axes.plot([row["epoch"] for row in history], values, color="#2b6cb0", marker="." if len(values) < 40 else "")
        log = bool((values > 0).any())
        axes.set(title=f"{title}, log scale" if log else title, xlabel="epoch")
        if log:
            axes.set_yscale("log", nonpositive="mask")
        if key == "dice":
            shown = axes.get_ylim()
            axes.set_yticks([1 - dice for dice in DICE_TICKS], [f"{dice:g}" for dice in DICE_TICKS])
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylim(shown[::-1])  # restores the limits, which the ticks may widen
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def number(value: object) -> float:
    """A value of `metrics.jsonl` as a float; NaN if it isn't a number."""
    return float(value) if isinstance(value, int | float) else math.nan


def _fit(image: Image, height: int) -> Image:
    """A picture at a pane's size; a close-up is enlarged without smoothing."""
    if image.shape[1] < PANE:
        return cv2.resize(image, (PANE, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    return resize(image, height, PANE)


def _outlined(
    image: Image, part: tuple[slice, slice], masks: Sequence[tuple[str, Mask, tuple[int, int, int]]]
) -> Image:
    """A photograph and a part of it, which a frame marks, both with the masks' outlines, the last on top."""
    height = min(TALLEST, max(1, round(PANE * image.shape[0] / image.shape[1])))
    whole, near = _fit(image, height).copy(), _fit(image[part], height).copy()
    for _, mask, color in masks:
        for pane, shown, sides in ((whole, mask, (3, 3)), (near, mask[part], (3, 5))):
            scaled, side = _nearest(shown, height), sides[color == TRUE]
            pane[scaled > cv2.erode(scaled, np.ones((side, side), np.uint8))] = color
    _frame(whole, part, height / image.shape[0], PANE / image.shape[1])
    legend = [(word, color) for word, _, color in masks]
    return _beside([_captioned(whole, [("photograph", INK)]), _captioned(near, legend)], 1)


def _nearest(mask: Mask, height: int) -> Image:
    """A mask at a pane's size, 0 and 1."""
    scaled = cv2.resize(mask.astype(np.uint8), (PANE, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(scaled, np.uint8)


def _around(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The part of a photograph, of its aspect ratio, around a box, with as much again beside it."""
    left, top, width, height = box
    share = min(1.0, max(1 / CLOSE_UP, 2 * width / shape[1], 2 * height / shape[0]))
    parts = []
    for start, length, side in ((top, height, shape[0]), (left, width, shape[1])):
        size = max(1, round(share * side))
        first = min(max(0, start + length // 2 - size // 2), side - size)
        parts.append(slice(first, first + size))
    return parts[0], parts[1]


def _gray(levels: NDArray[Any], height: int) -> Image:
    gray = np.empty(levels.shape, np.uint8)
    step = max(1, PIECE // levels.shape[1])
    for top in range(0, len(levels), step):
        rows = slice(top, top + step)
        gray[rows] = np.clip(levels[rows] * 255.0, 0, 255)
    return np.repeat(_fit(gray, height)[..., None], 3, axis=2)


def _error(image: Image, missing: Mask, surplus: Mask, height: int) -> Image:
    """The errors over a pale, gray photograph."""
    canvas = _fit(image, height).mean(axis=2, keepdims=True) * 0.55 + 105
    shrinks = image.shape[1] >= PANE
    for mask, color in ((missing, MISSING), (surplus, SURPLUS)):
        share = _fit(mask.astype(np.uint8) * 255, height)[..., None] / 255
        share = np.minimum(1, share * (BOOST if shrinks else 1))
        canvas = canvas * (1 - share) + np.array(color) * share
    return np.broadcast_to(canvas, (*canvas.shape[:2], 3)).clip(0, 255).astype(np.uint8)


def _close_up(errors: Mask) -> tuple[slice, slice]:
    """The part of the image, of the same aspect ratio, with the most errors; the center if there are none.

    In a very large image only some rows and columns are looked at.
    """
    if (step := math.isqrt(errors.size // PIECE)) > 1:
        rows, columns = _close_up(errors[::step, ::step])
        return slice(rows.start * step, rows.stop * step), slice(columns.start * step, columns.stop * step)
    height, width = (max(1, side // CLOSE_UP) for side in errors.shape)
    # Sums over every window, from the corners of the summed-area table.
    total = cv2.integral(errors.astype(np.uint8))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = divmod(int(np.argmax(sums)), sums.shape[1])
    if not sums.any():
        top, left = (errors.shape[0] - height) // 2, (errors.shape[1] - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _frame(pane: Image, part: tuple[slice, slice], down: float, across: float) -> None:
    """Draws the outline of a part of the image onto its pane, scaled by `down` and `across`."""
    rows, columns = part
    top, bottom = round(rows.start * down), round(rows.stop * down)
    left, right = round(columns.start * across), round(columns.stop * across)
    for distance, color in ((1, PAPER), (2, INK)):  # dark and light, to be visible on any background
        cv2.rectangle(pane, (left - distance, top - distance), (right + distance, bottom + distance), color, 1)


def _captioned(pane: Image, words: Sequence[tuple[str, tuple[int, int, int]]]) -> Image:
    strip = np.full((STRIP, pane.shape[1], 3), PAPER, np.uint8)
    left = 6
    for word, color in words:
        cv2.putText(strip, word, (left, STRIP - 7), cv2.FONT_HERSHEY_SIMPLEX, TEXT, color, 1, cv2.LINE_AA)
        left += cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, TEXT, 1)[0][0] + 8
    return np.concatenate([pane, strip])


def _beside(pictures: Sequence[Image], axis: int) -> Image:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, GRAY, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=axis)
