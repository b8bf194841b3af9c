"""How a photograph is turned: by the orientation in its EXIF, as viewers do."""

import contextlib
import struct
from typing import Any

from PIL import Image, PngImagePlugin

ORIENTATION = 0x0112  # the tag of EXIF and TIFF
SWAPPING = (5, 6, 7, 8)  # orientations that swap height and width


def turn(image: Any, orientation: int) -> Any:
    """Applies an EXIF orientation 1..8 to an image or a mask (H, W, ...)."""
    if orientation in SWAPPING:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def find_orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation 1..8; 1 if there is none, or if EXIF is damaged.

    Pillow's own also heeds XMP and a PNG's texts, by which no viewer turns a photograph.
    """
    with contextlib.suppress(OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error, Warning):
        if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info and b"eXIf" in data:
            image.load()  # it follows the pixels
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return int(getattr(image, "tag_v2", {}).get(ORIENTATION) or exif.get(ORIENTATION, 1))
    return 1
