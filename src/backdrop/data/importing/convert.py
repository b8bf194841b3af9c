"""Converts a photograph and its mask to the files of a dataset."""

from dataclasses import dataclass

import cv2
import numpy as np

from backdrop.common.errors import DataError
from backdrop.common.words import count
from backdrop.data.dataset import read_file
from backdrop.data.formats import Levels, Pixels, decode_levels, decode_photo, format_of, orientation_of
from backdrop.data.importing.annotations import Outlines
from backdrop.data.importing.sources import Mask as MaskSource
from backdrop.data.importing.sources import Source, shown
from backdrop.data.listing import printable
from backdrop.data.mask_files import CODED, FEW_COLORS, alpha_of, interpret
from backdrop.data.masks import Mask
from backdrop.data.orientation import SWAPPING, turn

JPEG_QUALITY = 95
KEPT = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "avif": ".avif"}  # formats whose bytes are copied
LOSSY = ("jpeg", "heic", "avif")  # formats that add colors
EXTREME, BILEVEL = 16, 0.99  # so near to black or white is this share of a mask's pixels, or more
EIGHT_BITS = "Save it with 8 bits"
GRID = 64  # rows and columns whose colors are looked at before all are counted
MASKS_ELSEWHERE = "Name its folder with --masks, or name it like its photograph and _mask"


@dataclass(frozen=True)
class Pair:
    """A photograph's bytes and suffix in the dataset, its mask if it has one, and the mask's origin."""

    data: bytes
    suffix: str
    mask: Mask | None
    origin: str


def convert(source: Source, threshold: int | None) -> Pair:
    """Reads a photograph and its mask.

    Args:
        source: the photograph and its mask.
        threshold: for soft masks, the minimum level 1..255 of the product.

    Raises:
        DataError: if either can't be read, the mask has more than two levels and there is no threshold, or it doesn't
            fit the photograph.
    """
    data, name = read_file(source.file), printable(source.file)
    image, file_format = decode_photo(data, name), format_of(data)
    alpha = alpha_of(decode_levels(data, name)) if file_format in ("png", "webp", "tiff", "avif") else None
    if source.mask is not None:
        origin = shown(source.mask)
        whose = f"its mask in {origin}" if isinstance(source.mask, Outlines) else origin
        mask = _fit(_read(source.mask, threshold), image, orientation_of(data), whose)
        return Pair(*_kept(data, file_format, image, alpha is not None), mask, origin)
    if alpha is None:
        if doubt := _mask_doubt(image, file_format):
            raise DataError(f"{name} {doubt}, and no photograph beside it has its name", MASKS_ELSEWHERE)
        return Pair(*_kept(data, file_format, image, False), None, "")
    if not _has_background(image, alpha):
        raise DataError(
            f"{name} is cut out already",
            "Put the photograph with its background beside it, or name its folder with --masks",
        )
    mask = _two_levels(alpha, threshold, name)
    return Pair(*_kept(data, file_format, image, True), mask, f"alpha channel of {name}")


def _kept(data: bytes, file_format: str, image: Pixels, has_alpha: bool) -> tuple[bytes, str]:
    """The bytes unchanged if training can read them, else encoded again: HEIC as JPEG, other formats as PNG."""
    if file_format in KEPT and not has_alpha:
        return data, KEPT[file_format]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if file_format == "heic":
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return bytes(cv2.imencode(".jpg", bgr, options)[1]), ".jpg"
    return bytes(cv2.imencode(".png", bgr)[1]), ".png"


def _has_background(image: Pixels, alpha: Levels) -> bool:
    """Whether the transparent pixels have a picture, not just one color."""
    hidden = image[alpha == 0]
    return len(hidden) > 0 and bool((hidden != hidden[0]).any())


def _mask_doubt(image: Pixels, file_format: str) -> str:
    """How an image resembles a mask rather than a photograph; empty if it doesn't."""
    height, width = image.shape[:2]
    some = image[:: max(1, height // GRID), :: max(1, width // GRID)].reshape(-1, 3)
    black, white = (some.max(axis=1) <= EXTREME).mean(), (some.min(axis=1) >= 255 - EXTREME).mean()
    if black + white >= BILEVEL and min(black, white) >= 1 - BILEVEL:
        return "is black and white, as a mask is"
    if file_format in LOSSY or len(np.unique(some, axis=0)) > FEW_COLORS:
        return ""
    colors = len(np.unique(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).view(np.uint32)))
    return f"has {count(colors, 'color')}, as a mask has" if colors <= FEW_COLORS else ""


def _read(source: MaskSource, threshold: int | None) -> Mask:
    if isinstance(source, Outlines):
        return source.mask()
    name = printable(source)
    levels = decode_levels(read_file(source), name)
    file = interpret(levels)
    if file.mask is not None:
        return file.mask
    if threshold is None and file.remedy == CODED:
        raise DataError(f"{name} {file.trouble}", f"{CODED}, or set --threshold, a brightness")
    alpha = alpha_of(levels)
    return _two_levels(file.content if alpha is None else alpha, threshold, name)


def _two_levels(content: Levels, threshold: int | None, name: str) -> Mask:
    mask = interpret(content).mask
    if mask is not None:
        return mask
    scale = 257 if content.dtype == np.uint16 else 1
    brightest = int(content.max()) // scale
    if threshold is None:
        remedy = f"Set --threshold, such as {(brightest + 1) // 2}" if brightest else EIGHT_BITS
        raise DataError(f"{name} has {len(np.unique(content))} levels, not two", remedy)
    if threshold > brightest:
        remedy = f"Set --threshold to at most {brightest}" if brightest else EIGHT_BITS
        raise DataError(f"{name} has no level of {threshold} or more", remedy)
    chosen: Mask = content >= threshold * scale
    return chosen


def _fit(mask: Mask, image: Pixels, orientation: int, name: str) -> Mask:
    """The mask at the photograph's size; turned like it if it was drawn on the unturned photograph."""
    if mask.shape != image.shape[:2] and mask.shape[::-1] == image.shape[:2] and orientation in SWAPPING:
        mask = np.ascontiguousarray(turn(mask, orientation))
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    if (rows, columns) != (height, width):
        raise DataError(
            f"{name} is {columns}x{rows}, but its photograph is {width}x{height}", "Export both at one size"
        )
    if mask.all() or not mask.any():
        raise DataError(f"{name} is {'full' if mask.all() else 'empty'}", "Draw the mask again")
    return mask
