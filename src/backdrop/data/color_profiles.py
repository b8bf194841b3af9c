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
    transform = _transform(profile, "RGB") if profile else None
    if transform is None or _is_srgb(profile):
        return image
    converted = image if image.flags.writeable else image.copy()
    for rows in np.array_split(converted, max(1, converted.nbytes // STRIP)):
        rows[:] = _apply(transform, rows)
    return converted


def from_cmyk(image: Image.Image) -> NDArray[np.uint8] | None:
    """A CMYK image as sRGB (H, W, 3), 0..255; None if it isn't one, or has no profile that can be used."""
    profile = image.info.get("icc_profile") if image.mode == "CMYK" else None
    transform = _transform(profile, "CMYK") if profile else None
    return None if transform is None else np.array(ImageCms.applyTransform(image, transform))


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform of a mode's images to sRGB; None if the profile is damaged, or made for another mode."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != mode:
            return None
        return ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    levels = np.arange(0, 256, STEP, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    return bool(np.abs(_apply(_transform(profile, "RGB"), colors).astype(np.int16) - colors).max() <= SAME)


def _apply(transform: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))
