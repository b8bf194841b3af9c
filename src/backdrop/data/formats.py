"""Reads image files: their format, their size before anything is decoded, and their pixels.

A file is judged by decoding it, never by its name or its last bytes: phones append a video to a photograph, cameras and
cards pad it, and all of that is fine. Damage is what a decoder complains about.
"""

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from backdrop.common.environment import read_count
from backdrop.common.errors import DataError, TooLargeError, is_out_of_memory
from backdrop.data.color_profiles import as_srgb, from_cmyk, profile_of
from backdrop.data.damage import BEFORE_DECODING, MAX_SCANS, count_scans, find_gif_damage, find_jpeg_damage
from backdrop.data.orientation import SWAPPING, find_orientation, turn

MAX_PIXELS = 300_000_000  # default of BACKDROP_MAX_PIXELS
STRIP = 2**24  # pixels that are copied at a time
LFS = b"version https://git-lfs"
# The brands of ISO media files that are HEIC photographs, unless one of AVIF is among the others.
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
MAX_BRANDS = 64  # bytes in which they lie
COPY_AGAIN = "Copy it again from where it came, or remove it"
SAVE_AGAIN = "Copy it again from where it came, or save it as a JPEG or PNG of 8 bits"
# Of TIFF, which Pillow names only in part.
SUBFILE_TYPE, REDUCED = 254, 1
WHITE_IS_ZERO, SEPARATE_PLANES = 0, 2

Pixels = NDArray[np.uint8]
Levels = NDArray[Any]  # uint8 or uint16

Image.MAX_IMAGE_PIXELS = None  # our own bound is checked first
warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata that we don't use
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own errors name the file


def format_of(data: bytes) -> str:
    """`jpeg`, `png`, `gif`, `webp`, `tiff`, `bmp`, `avif`, `heic`, `lfs` (a Git LFS pointer), or empty."""
    starts = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", LFS: "lfs"}
    starts |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff")  # the latter two are BigTIFF
    for start, name in starts.items():
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4]), MAX_BRANDS)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, end, 4))]
    if not AVIF_BRANDS.isdisjoint(brands):
        return "avif"
    return "heic" if brands[0] in HEIC_BRANDS else ""


def max_pixels() -> int:
    """The maximum number of pixels of an image: `BACKDROP_MAX_PIXELS`, or 300 million.

    Raises:
        ConfigError: if the variable isn't a positive number.
    """
    return read_count("BACKDROP_MAX_PIXELS", MAX_PIXELS, "Set it to a number of pixels, such as 300000000")


def decode_photo(data: bytes, name: object, least: int = 0) -> Pixels:
    """A photograph as a viewer shows it (EXIF orientation and color profile applied): (H, W, 3) sRGB, 0..255.

    Args:
        data: the file's bytes.
        name: its name in messages.
        least: if set, a JPEG of at least this height and width may come shrunk down to that. It takes a fraction of the
            time, and finds the same damage.

    Raises:
        DataError: if it is damaged, too large, or not a readable image.
    """
    with decoded(data, name, least) as image:
        return image


@contextlib.contextmanager
def decoded(data: bytes, name: object, least: int = 0) -> Iterator[Pixels]:
    """Like `decode_photo`, for pixels that are needed only inside the block.

    Blocks that run side by side wait for each other where their photographs would be too large together.
    """
    file_format, pixels = examine(data, name)
    jpeg = partial(_decode_jpeg, least=least)
    decoders: dict[str, Callable[[bytes], Pixels]] = {"jpeg": jpeg, "heic": _decode_heic, "png": _decode_png}
    with _room.take(pixels):
        with _readable(name, file_format):
            image = np.ascontiguousarray(decoders.get(file_format, _decode_other)(data))
            image = as_srgb(image, profile_of(data, _opened(data)))
        del data  # may be as large as the image
        yield image


def decode_levels(data: bytes, name: object) -> Levels:
    """An image as it is stored, 8 or 16 bits, alpha included: (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        DataError: as `decode_photo`.
    """
    with decoded_levels(data, name) as levels:
        return levels


@contextlib.contextmanager
def decoded_levels(data: bytes, name: object) -> Iterator[Levels]:
    """Like `decode_levels`, for levels that are needed only inside the block; like `decoded`, it may wait."""
    file_format, pixels = examine(data, name)
    if file_format in ("jpeg", "heic"):
        with decoded(data, name) as image:
            yield image
        return
    with _room.take(pixels):
        with _readable(name, file_format):
            levels = _png_levels(data) if file_format == "png" else _turned_levels(data)
            if file_format == "gif" and (damage := find_gif_damage(data)):
                raise DataError(damage, COPY_AGAIN)
        del data
        yield levels


def shape_of(data: bytes) -> tuple[int, int]:
    """The height and width of a readable image as a viewer shows it."""
    width, height = _size(data)
    turned_already = format_of(data) in ("heic", "tiff")
    return (width, height) if not turned_already and orientation_of(data) in SWAPPING else (height, width)


def orientation_of(data: bytes) -> int:
    """The EXIF orientation 1..8 of a readable image; 1 for HEIC, whose decoder applies it."""
    return 1 if format_of(data) == "heic" else find_orientation(_pillow(data), data)


def examine(data: bytes, name: object) -> tuple[str, int]:
    """The format (see `format_of`) and number of pixels of an image, from its header; nothing is decoded.

    Raises:
        TooLargeError: if it has more pixels than are decoded.
        DataError: if it isn't a readable image, or is visibly damaged.
    """
    file_format = format_of(data)
    if file_format == "lfs":
        raise DataError(f"{name} is a Git LFS pointer, not the image", "Run `git lfs pull`")
    if (find_damage := BEFORE_DECODING.get(file_format)) and (damage := find_damage(data)):
        raise DataError(f"{name} {damage}", COPY_AGAIN)
    with _readable(name, file_format):
        width, height = _size(data)
    if width * height > max_pixels():
        what = f"{name} has {width}x{height} pixels, more than the {max_pixels():,} that are decoded"
        raise TooLargeError(what, "Scale it down, or set BACKDROP_MAX_PIXELS")
    if file_format == "jpeg" and (scans := count_scans(data)) > MAX_SCANS:
        raise DataError(f"{name} has {scans:,} scans or more, and each takes time", "Save it again as a JPEG")
    return file_format, width * height


@contextlib.contextmanager
def _readable(name: object, file_format: str) -> Iterator[None]:
    """Turns decoders' exceptions into a DataError that names the file.

    A file that begins as an image may be whole, and of a kind that no decoder here knows.
    """
    try:
        yield
    except DataError as error:  # it doesn't name the file yet
        raise DataError(f"{name} {error.what}", error.remedy) from error
    except ModuleNotFoundError as error:
        what = f"{name} is a HEIC photograph, and {error.name} isn't installed"
        raise DataError(what, "pip install 'backdrop-ml[heic]', or export it as JPEG") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        LookupError,
        RuntimeError,
        Warning,
        struct.error,
        cv2.error,
    ) as error:
        if is_out_of_memory(error):
            raise
        if "truncated" in str(error):
            raise DataError(f"{name} is truncated", COPY_AGAIN) from error
        raise DataError(f"{name} is not a readable image", SAVE_AGAIN if file_format else COPY_AGAIN) from error


class _Room:
    """Limits images that are decoded at the same time: together they have at most as many pixels as one may have.

    A thread that has room already, as for a photograph whose mask it reads, gets more at once: if it waited, two such
    threads could wait for each other.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()
        self._thread = threading.local()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        inside = getattr(self._thread, "inside", False)
        with self._changed:
            self._changed.wait_for(lambda: inside or not self._taken or self._taken + pixels <= max_pixels())
            self._taken += pixels
        self._thread.inside = True
        try:
            yield
        finally:
            self._thread.inside = inside
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


_room = _Room()


def _pillow(data: bytes) -> Image.Image:
    """Only the header is read."""
    return Image.open(io.BytesIO(data))


def _opened(data: bytes) -> Any:
    """Like `_pillow`, for HEIC too."""
    return _heif(data) if format_of(data) == "heic" else _pillow(data)


def _size(data: bytes) -> tuple[int, int]:
    """The width and height as stored, from the header."""
    size: tuple[int, int] = _opened(data).size
    return size


def _load(data: bytes) -> Image.Image:
    image = _pillow(data)
    _refuse_rare_tiff(image)
    image.info.pop("xmp", None)  # Pillow would turn a TIFF by it
    image.load()
    return image


def _refuse_rare_tiff(image: Image.Image) -> None:
    """Refuses what Pillow reads without a complaint, but wrongly, or as less than there is."""
    bits = _tiff_tag(image, TiffImagePlugin.BITSPERSAMPLE) or (8,)
    if bits == (12,):
        raise DataError("has 12 bits a pixel", "Save it with 8 or 16")
    if max(bits) > 8 and _tiff_tag(image, TiffImagePlugin.PLANAR_CONFIGURATION) == SEPARATE_PLANES:
        raise DataError("is a TIFF of 16 bits with a plane for each color", "Save it with 8 bits, or as PNG")
    if (_tiff_tag(image, SUBFILE_TYPE) or 0) & REDUCED and getattr(image, "n_frames", 1) > 1:
        raise DataError("is a TIFF that begins with a thumbnail", "Save the photograph alone")


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    """The value of a TIFF's tag; None without it, and for other formats."""
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _heif(data: bytes) -> Any:
    """Only the header is read."""
    import pi_heif  # an extra

    return pi_heif.open_heif(data, convert_hdr_to_8bit=True)


def _decode_heic(data: bytes) -> Pixels:
    return np.asarray(_heif(data).to_pillow().convert("RGB"))


def _decode_jpeg(data: bytes, least: int) -> Pixels:
    """Decodes by libjpeg-turbo: bit by bit as OpenCV does, but with its warnings."""
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", strict=True, min_height=least, min_width=least)
    except ValueError as error:
        if damage := find_jpeg_damage(data, str(error)):
            raise DataError(damage, COPY_AGAIN) from error
        image = _decode_rare_jpeg(data)
    opened = _pillow(data)
    converted = from_cmyk(opened)
    turned: Pixels = turn(image if converted is None else converted, find_orientation(opened, data))
    return turned


def _decode_rare_jpeg(data: bytes) -> Pixels:
    """Decodes a JPEG that libjpeg warns about although no pixel is lost, or a rare form that only OpenCV supports."""
    with contextlib.suppress(ValueError):
        image: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
        return image
    return _opencv(data)


def _decode_png(data: bytes) -> Pixels:
    image: Pixels = turn(_opencv(data), find_orientation(_pillow(data), data))
    return image


def _opencv(data: bytes) -> Pixels:
    """A color image as it is stored."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("OpenCV can't read it")
    for rows in np.array_split(image, max(1, image.nbytes >> 24)):  # a view: OpenCV copies what it changes in place
        cv2.cvtColor(rows, cv2.COLOR_BGR2RGB, dst=rows)
    return image.astype(np.uint8, copy=False)


def _decode_other(data: bytes) -> Pixels:
    levels = _turned_levels(data)
    if levels.dtype == np.uint16:
        levels = levels >> 8
    color = levels[..., :3] if levels.ndim == 3 else np.dstack([levels] * 3)
    return color.astype(np.uint8, copy=False)


def _turned_levels(data: bytes) -> Levels:
    image = _load(data)
    turned: Levels = turn(_levels(image), find_orientation(image, data))
    return turned


def _levels(image: Image.Image) -> Levels:
    """A Pillow image as gray, RGB or RGBA."""
    if image.mode in ("I;16", "I;16B", "I;16L"):
        levels = np.asarray(image).astype(np.uint16)
        inverted = _tiff_tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
        return ~levels if inverted else levels  # Pillow does it for 8 bits
    if image.mode in ("I", "F"):
        raise DataError("has 32 bits a pixel", "Save it with 8 or 16")
    if (converted := from_cmyk(image)) is not None:
        return converted
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if image.mode == "P" and not transparent:
        return _by_palette(image)
    gray = image.mode in ("1", "L") and not transparent
    mode = "L" if gray else "RGBA" if transparent else "RGB"
    return _array(image if image.mode == mode else image.convert(mode))


def _array(image: Image.Image) -> Pixels:
    """A Pillow image's pixels, in strips: Pillow copies what it hands out."""
    step = max(1, STRIP // image.width)
    if step >= image.height:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, *[len(image.getbands())] * (image.mode != "L")), np.uint8)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _by_palette(image: Image.Image) -> Levels:
    """Applies a palette; as gray if all its colors are gray, which is usual for masks and fast."""
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    if (palette != palette[:, :1]).any():
        return np.asarray(image.convert("RGB"))
    table = np.zeros(256, np.uint8)
    table[: len(palette)] = palette[:, 0]
    return cv2.LUT(np.asarray(image), table)


def _png_levels(data: bytes) -> Levels:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("OpenCV can't read it")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    turned: Levels = turn(image, find_orientation(_pillow(data), data))
    return turned
