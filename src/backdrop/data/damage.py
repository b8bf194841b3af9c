"""Damage inside image files, by the warnings, checksums and decoders that show it."""

import re
import struct
import zlib
from collections.abc import Iterator

MAX_SCANS = 100  # of a progressive JPEG; programs that write them make about ten
# libjpeg's warnings about complete files: a form that libjpeg-turbo's own interface doesn't support, or odd metadata.
# Any other warning means that pixels are lost.
HARMLESS = (
    *("subsampling", "JPEG process", "data precision", "color conversion", "arithmetic coding"),
    *("JFIF revision", "Adobe color transform", "bad ICC marker", "Invalid SOS parameters for sequential"),
)
# In a JPEG's scan, what begins the next segment: 0xff isn't followed by zero, a restart marker or padding there.
SEGMENT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
EXTENSION, PICTURE = 0x21, 0x2C  # of a GIF
MOST_BITS = 12  # of a GIF's code
MOST_CODES = 1 << MOST_BITS
ZEROS = "ends in zeros where pixels should be"
LOST = bytes(256)  # an arithmetic coder ends in at most a few zeros


def find_jpeg_damage(data: bytes, warning: str) -> str:
    """The damage that libjpeg's warning means; empty if no pixel is lost."""
    if any(words in warning for words in HARMLESS):
        return ""
    end = next((start for marker, start in _segments(data) if marker == END_OF_IMAGE), 0) - 2
    if end < 0:
        return "is truncated"
    if "extraneous bytes before marker 0xd9" in warning:  # some cameras pad there
        count = int("".join(filter(str.isdigit, warning.partition(" extraneous")[0])))
        if not data[end - count : end].strip(b"\0\xff"):
            return ""
    return f"is damaged inside ({warning})"


def count_scans(data: bytes) -> int:
    """The scans of a JPEG, as far as its segments can be followed; at most one more than are allowed."""
    scans = 0
    for marker, _ in _segments(data):
        scans += marker == START_OF_SCAN
        if marker == END_OF_IMAGE or scans > MAX_SCANS:
            break
    return scans


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG's segments, each with where its content begins. What follows the image isn't left out."""
    start = 2
    while found := SEGMENT.search(data, start):
        marker, start = data[found.start() + 1], found.end()
        yield marker, start
        start += int.from_bytes(data[start : start + 2])


def find_png_damage(data: bytes) -> str:
    """The damage of a PNG: each chunk has a checksum, and the last chunk is IEND; bytes after it don't matter."""
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        (length,) = struct.unpack(">I", view[start : start + 4])
        end = start + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack(">I", view[end - 4 : end])[0]:
            return "is damaged inside (a checksum of the PNG is wrong)"
        if bytes(view[start + 4 : start + 8]) == b"IEND":
            return ""
        start = end
    return "is truncated"


def find_webp_damage(data: bytes) -> str:
    """The damage of a lossy WebP whose end is zeros, as a copy leaves it that was cut short: decoders read it as gray.

    A lossless one of a mask may end in thousands of zeros, and have them all.
    """
    start, end = 12, 8 + int.from_bytes(data[4:8], "little")
    while start < min(end, len(data)):
        name, stop = data[start : start + 4], start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if name == b"VP8 " and data.endswith(LOST, start + 8, stop):
            return ZEROS
        start = stop + stop % 2
    return ""


def find_heif_damage(data: bytes) -> str:
    """The damage of an AVIF or a HEIC whose pixels end in zeros (see `find_webp_damage`)."""
    start = 0
    while start < len(data):
        size, name, content = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], start + 8
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16]), start + 16
        if not size:  # it lasts to the end of the file, whose zeros may be a card's padding
            break
        stop = start + size
        if name == b"mdat" and data.endswith(LOST, content, stop):
            return ZEROS
        start = max(stop, content)
    return ""


def find_gif_damage(data: bytes) -> str:
    """The damage of a GIF that `decode_levels` can read nevertheless; empty if there is none.

    A GIF has no checksum. But behind a changed code, the others nearly always stand for another number of pixels, which
    is counted here without decoding them: OpenCV, which finds the same, takes forty times as long.
    """
    try:
        pixels, colors, bits, codes = _first_picture(data)
        if _count_pixels(colors, bits, codes) == pixels:
            return ""
    except (IndexError, ValueError, struct.error):
        pass
    return "is damaged inside"


def _first_picture(data: bytes) -> tuple[int, int, int, bytes]:
    """A GIF's first picture: its number of pixels, of its palette's colors, the bits of a color, and its codes.

    Raises:
        IndexError, ValueError, struct.error: if there is none, or it isn't within the screen.
    """
    screen_width, screen_height, flags = struct.unpack_from("<2HB", data, 6)
    colors = _palette(flags)
    start = 13 + 3 * colors
    while data[start] == EXTENSION:
        start = _blocks(data, start + 2)[1]
    mark, left, top, width, height, flags = struct.unpack_from("<B4HB", data, start)
    if mark != PICTURE or left + width > screen_width or top + height > screen_height:
        raise ValueError
    start += 10 + 3 * _palette(flags)
    return width * height, _palette(flags) or colors or 256, data[start], _blocks(data, start + 1)[0]


def _palette(flags: int) -> int:
    return 2 << (flags & 7) if flags & 128 else 0


def _blocks(data: bytes, start: int) -> tuple[bytes, int]:
    """The bytes in blocks with their lengths, the last of which is 0, and where they end."""
    blocks = []
    while length := data[start]:
        blocks.append(data[start + 1 : start + 1 + length])
        start += 1 + length
    return b"".join(blocks), start + 1


def _count_pixels(colors: int, bits: int, codes: bytes) -> int:
    """How many pixels LZW's codes stand for.

    Raises:
        IndexError, ValueError: if one stands for nothing.
    """
    clear = 1 << bits
    initial = [1] * min(colors, clear) + [0] * (clear + 2 - min(colors, clear))
    lengths, width, previous = initial.copy(), bits + 1, 0
    total = buffer = held = 0
    for byte in codes:
        buffer |= byte << held
        held += 8
        while held >= width:
            code = buffer & ((1 << width) - 1)
            buffer >>= width
            held -= width
            if code == clear:
                lengths, width, previous = initial.copy(), bits + 1, 0
                continue
            if code == clear + 1:
                return total
            if previous and len(lengths) < MOST_CODES:
                lengths.append(previous + 1)  # what the previous code stands for, and one more
                width += len(lengths) == 1 << width and width < MOST_BITS
            previous = lengths[code]
            if not previous:
                raise ValueError
            total += previous
    return total


# By format, those that read no more than the file's bytes.
BEFORE_DECODING = {
    "png": find_png_damage,
    "webp": find_webp_damage,
    "avif": find_heif_damage,
    "heic": find_heif_damage,
}
