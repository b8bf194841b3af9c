"""Turns photographs with a color profile into sRGB, which is what a web page takes an image without one for."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

STRIP = 2**24  # bytes that are converted at a time
STEP = 17  # between the levels that show whether a profile is sRGB: 0, 17, …, 255
SAME = 3  # no level differs by more between two makers' sRGB


def as_srgb(image: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3), 0..255, in sRGB: relative colorimetric, with black point compensation.

    A profile that is sRGB itself, damaged, or made for other than RGB changes nothing, as in a browser.

    Args:
        image: the pixels; those of the result may take their place.
        profile: an ICC profile; empty for none.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return image
    converted = image if image.flags.writeable else image.copy()
    for rows in np.array_split(converted, max(1, converted.nbytes // STRIP)):
        rows[:] = _apply(transform, rows)
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> Any:
    """The transform to sRGB; None if a profile can't be used, or its colors are those of sRGB."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != "RGB":
            return None
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    levels = np.arange(0, 256, STEP, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    difference = np.abs(_apply(transform, colors).astype(np.int16) - colors).max()
    return transform if difference > SAME else None


def _apply(transform: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))
