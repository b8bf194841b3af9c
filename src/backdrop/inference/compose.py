"""From a matte to a picture file: transparent, or before another background, cropped to the product."""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ImageColor

from backdrop.common.errors import ConfigError, DataError
from backdrop.common.storage import sha256
from backdrop.data.masks import Mask, encode_png
from backdrop.inference.alpha import Matte, make_matte

PictureType = Literal["png", "webp", "jpeg"]
PictureKind = Literal["cutout", "alpha", "mask"]
SUFFIXES: dict[PictureType, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
MAX_SIDE: dict[PictureType, int] = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}  # of the file formats
STRIP = 2**22  # pixels that are mixed at a time
MAX_MARGIN = 50  # percent
QUALITY = 95  # of lossy colors; alpha is never lossy
COLOR = "Use #rrggbb or a CSS name such as white"

Image = NDArray[np.uint8]
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class PictureOptions:
    """How a cut-out is shown and saved.

    Attributes:
        type: the file's format.
        background: an RGB color or a picture (H, W, 3) RGB; None for transparency, which in a JPEG is white. A picture
            is scaled to cover the cut-out, and what stands out is cut off on both sides.
        crop: crop to the product, and add this margin on all four sides, in percent (0 to 50) of the product's longer
            side; None to keep the photograph's frame.

    Raises:
        ConfigError: if there is no such type, or the margin is out of range.
    """

    type: PictureType = "png"
    background: Color | Image | None = None
    crop: float | None = None

    def __post_init__(self) -> None:
        """Checks the options, and makes what a JPEG can't show white."""
        if self.type not in get_args(PictureType):
            raise ConfigError(f"There are no {self.type} pictures", "Use png, webp or jpeg")
        if self.type == "jpeg" and self.background is None:
            object.__setattr__(self, "background", WHITE)  # the dataclass is frozen
        if self.crop is not None and not 0 <= self.crop <= MAX_MARGIN:
            raise ConfigError(f"The margin must be 0 to {MAX_MARGIN} percent, not {self.crop:g}", "Use another margin")


@dataclass(frozen=True)
class Pictures:
    """The pictures to draw of photographs.

    Attributes:
        kind: cut-outs; or their alpha, (H, W) 0..255, which the options don't concern; or masks, (H, W) of one bit.
        options: of cut-outs.
    """

    kind: PictureKind = "cutout"
    options: PictureOptions = PictureOptions()

    @property
    def suffix(self) -> str:
        """The suffix of the files."""
        return SUFFIXES[self.options.type]

    def digest(self) -> str:
        """sha256 of all that determines a picture, but for its photograph."""
        options, behind = self.options, self.options.background
        pixels = behind if behind is None or isinstance(behind, tuple) else (behind.shape, sha256(behind.tobytes()))
        return sha256(repr((self.kind, options.type, options.crop, pixels)).encode())

    def draw(self, image: Image, probability: NDArray[np.float32], mask: Mask) -> bytes:
        """A photograph's picture, as a file.

        Args:
            image: the photograph (H, W, 3) RGB.
            probability: the networks' mean (H, W), 0..1.
            mask: the mask (H, W) after post-processing.

        Raises:
            DataError: if a side is longer than the format allows.
        """
        if self.kind == "mask":
            return encode_png(mask)
        matte = make_matte(image, probability, mask)
        if self.kind == "alpha":
            return encode(matte.alpha, "png")
        return encode(compose(matte, self.options), self.options.type)


def parse_color(text: str) -> Color:
    """The RGB color, 0..255 each, of `#rrggbb` or of a CSS name.

    Raises:
        ConfigError: if it isn't a color.
    """
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise ConfigError(f"{text} is not a color", COLOR) from error
    if len(color) != 3:
        raise ConfigError(f"{text} is not a color without transparency", COLOR)
    if not all(0 <= level <= 255 for level in color):  # Pillow takes rgb(300, 0, 0)
        raise ConfigError(f"{text} is not a color", COLOR)
    return color


def compose(matte: Matte, options: PictureOptions) -> Image:
    """The picture: (h, w, 4) RGBA, or (h, w, 3) RGB before a background.

    It has the photograph's size unless it is cropped. A matte that is transparent everywhere isn't cropped.
    """
    if options.crop is not None:
        matte = crop(matte, options.crop)
    if options.background is None:
        picture = cv2.cvtColor(matte.colors, cv2.COLOR_RGB2RGBA).astype(np.uint8, copy=False)
        picture[..., 3] = matte.alpha
        return picture
    height, width = matte.alpha.shape
    picture = _behind(options.background, height, width)
    step = max(1, STRIP // width)
    for rows in (slice(top, top + step) for top in range(0, height, step)):
        alpha = matte.alpha[rows, :, None].astype(np.uint16)
        picture[rows] = (matte.colors[rows] * alpha + picture[rows] * (255 - alpha) + 127) // 255
    return picture


def crop(matte: Matte, margin: float) -> Matte:
    """The matte around the product, with a margin in percent of the product's longer side.

    Where the margin reaches beyond the photograph it is transparent, so it is as wide on all four sides.
    """
    left, top, width, height = cv2.boundingRect(matte.alpha)
    if not width:
        return matte
    box = np.s_[top : top + height, left : left + width]
    pixels = round(max(width, height) * margin / 100)
    frame = ((pixels, pixels), (pixels, pixels))
    return Matte(np.pad(matte.colors[box], (*frame, (0, 0))), np.pad(matte.alpha[box], frame))


def encode(picture: Image, file_type: PictureType) -> bytes:
    """The bytes of a picture file; equal pixels give equal bytes.

    Args:
        picture: (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, which JPEG doesn't have.
        file_type: its format.

    Raises:
        DataError: if a side is longer than the format allows.
    """
    height, width = picture.shape[:2]
    if max(height, width) > MAX_SIDE[file_type]:
        what = f"is {width}x{height}, and {file_type} pictures have at most {MAX_SIDE[file_type]} pixels a side"
        raise DataError(what, "Use png")
    if file_type == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, "RGB", "444")
        return data
    if picture.ndim == 3:
        order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
        picture = cv2.cvtColor(picture, order).astype(np.uint8, copy=False)
    quality = [cv2.IMWRITE_WEBP_QUALITY, QUALITY] if file_type == "webp" else []
    _, encoded = cv2.imencode(f".{file_type}", picture, quality)
    return encoded.tobytes()


def _behind(background: Color | Image, height: int, width: int) -> Image:
    """A new picture (height, width, 3) of the background alone."""
    if isinstance(background, tuple):
        return np.full((height, width, 3), background, np.uint8)
    scale = max(height / background.shape[0], width / background.shape[1])
    size = [max(1, round(side / scale)) for side in (height, width)]
    top, left = [(side - part) // 2 for side, part in zip(background.shape[:2], size, strict=True)]
    shown = background[top : top + size[0], left : left + size[1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(shown, (width, height), interpolation=way).astype(
        np.uint8, copy=shown.shape[:2] == (height, width)
    )
