"""Interprets mask files: the only place where levels, colors and an alpha channel become product and background.

Training, evaluation and `check` all read masks here, so that `check` judges what is trained on.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.data.formats import Levels
from backdrop.data.masks import Mask

# The darker of two levels is dark if the brighter is at least this many times as bright.
CONTRAST = 4
INVERTED = 0.5  # if more of the border is product, the mask may be inverted
CONVERT = (
    "`backdrop import PHOTOS OUT --masks MASKS --threshold 128`"  # makes a dataset of soft masks, and of other formats
)
SOFT = f"Export it without smoothing, or make two levels of it with {CONVERT}"
CODED = "Save the product white and all else black"
FEW_COLORS = 16  # of a mask whose colors stand for classes; a photograph has more
ALPHA = "holds its mask in the alpha channel, which was used"

Color = tuple[int, ...]


@dataclass(frozen=True)
class MaskFile:
    """An interpreted mask file (H, W).

    Attributes:
        content: the channel that separates product from background, gray or alpha, in the file's own levels.
        mask: the product, if the file has one or two levels; else None.
        trouble: the reason why there is no mask.
        notes: what the user should check, each with its remedy.
    """

    content: Levels
    mask: Mask | None
    trouble: str = ""
    remedy: str = SOFT
    notes: tuple[tuple[str, str], ...] = ()


def interpret(pixels: Levels) -> MaskFile:
    """Interprets a mask file's pixels: the brighter of two levels is the product, whatever they are.

    Args:
        pixels: (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, 8 or 16 bits.
    """
    if pixels.ndim == 2:
        return _by_level(pixels)
    color, alpha = pixels[..., :3], alpha_of(pixels)
    return _by_color(color) if alpha is None else _by_color_or_alpha(color, alpha)


def alpha_of(pixels: Levels) -> Levels | None:
    """The alpha channel (H, W) of an image as `interpret` takes it; None if there is none, or it is constant."""
    if pixels.ndim == 2 or pixels.shape[2] == 3 or pixels[..., 3].min() == pixels[..., 3].max():
        return None
    alpha: Levels = pixels[..., 3]
    return alpha


def _by_color_or_alpha(color: Levels, alpha: Levels) -> MaskFile:
    """Uses the colors if they show background and product, or the alpha channel if there is only one color.

    A black background with its white product transparent (GIF editors save that) is read by its colors.
    """
    everywhere, shown = _distinct(_packed(color)), _distinct(_packed(color[alpha > 0][None]))
    if everywhere is not None and len(everywhere) == 2:
        by_color = _by_color(color)
        if (shown is not None and len(shown) == 2) or _same(by_color.mask, _by_level(alpha).mask):
            return by_color
        if by_color.mask is not None and not (by_color.mask & (alpha > 0)).any():
            gray = by_color.content  # of two levels
            if int(gray.min()) * CONTRAST <= int(gray.max()):
                note = (
                    "has a transparent product on an opaque background",
                    "Check that its brighter part is the product",
                )
                return _noted(by_color, note)
    if shown is not None and len(shown) == 1:
        return _noted(_by_level(alpha), (ALPHA, "Save it as black and white if that is wrong"))
    trouble = "is a photograph cut out by its alpha channel, not a mask"
    return MaskFile(alpha, None, trouble, f"Make a mask of it with {CONVERT}")


def _by_color(color: Levels) -> MaskFile:
    """Takes the brighter of two colors for the product."""
    gray = cv2.cvtColor(np.ascontiguousarray(color), cv2.COLOR_RGB2GRAY)
    packed = _packed(color)
    colors = _distinct(packed)
    if colors is None:
        count = len(np.unique(packed))
        plain = (color[..., 0] == color[..., 1]).all() and (color[..., 1] == color[..., 2]).all()
        trouble = f"has {count} {'gray levels' if plain else 'colors'}, not two"
        return MaskFile(gray, None, trouble, CODED if not plain and count <= FEW_COLORS else SOFT)
    if len(colors) == 2 and gray.min() == gray.max():
        trouble = "has two colors of the same brightness, and doesn't say which is the product"
        return MaskFile(gray, None, trouble, "Save the product white and the background black")
    return _by_level(gray)


def _by_level(levels: Levels) -> MaskFile:
    distinct = _distinct(levels)
    if distinct is None:
        return MaskFile(levels, None, f"has {len(np.unique(levels))} gray levels, not two")
    low, high = distinct[0], distinct[-1]
    mask: Mask = levels > (low if low < high else 0)
    if low == high or low * CONTRAST <= high:
        return MaskFile(levels, mask, notes=_border_notes(mask))
    what = f"has levels {low} and {high}, of which the brighter was taken for the product"
    remedy = "Check that it is, and save the background black and the product white"
    return MaskFile(levels, mask, notes=((what, remedy), *_border_notes(mask)))


def _border_notes(mask: Mask) -> tuple[tuple[str, str], ...]:
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    if border.mean() <= INVERTED or mask.all():
        return ()
    what = f"has a product that touches {border.mean():.0%} of the border"
    return ((what, "If product and background are swapped, invert it"),)


def _same(one: Mask | None, other: Mask | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _noted(file: MaskFile, note: tuple[str, str]) -> MaskFile:
    return MaskFile(file.content, file.mask, file.trouble, file.remedy, (note, *file.notes))


def _distinct(values: NDArray[Any]) -> tuple[int, ...] | None:
    """The one or two distinct values, ascending; None if there are more. It is fast, because masks are large."""
    low, high = values.min(), values.max()
    if low == high:
        return (int(low),)
    few = np.count_nonzero(values == low) + np.count_nonzero(values == high) == values.size
    return (int(low), int(high)) if few else None


def _packed(color: Levels) -> NDArray[Any]:
    """A color (H, W, 3) as one number a pixel (H, W)."""
    four = cv2.cvtColor(np.ascontiguousarray(color), cv2.COLOR_RGB2RGBA)
    return four.view(np.uint32 if four.dtype == np.uint8 else np.uint64)[..., 0]
