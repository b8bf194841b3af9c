"""Damage inside image files, by the warnings, checksums and decoders that show it."""

import contextlib
import re
import struct
import zlib

import cv2
import numpy as np

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


def find_jpeg_damage(data: bytes, warning: str) -> str:
    """The damage that libjpeg's warning means; empty if no pixel is lost."""
    if any(words in warning for words in HARMLESS):
        return ""
    scan = data.rfind(b"\xff\xda")
    end = data.find(b"\xff\xd9", scan)
    if end < 0:
        return "is truncated"
    if "extraneous bytes before marker 0xd9" in warning:  # some cameras pad there
        count = int("".join(filter(str.isdigit, warning.partition(" extraneous")[0])))
        if not data[end - count : end].strip(b"\0\xff"):
            return ""
    return f"is damaged inside ({warning})"


def count_scans(data: bytes) -> int:
    """The scans of a JPEG, as far as its segments can be followed; at most one more than are allowed."""
    scans, start = 0, 2
    while scans <= MAX_SCANS and (found := SEGMENT.search(data, start)):
        marker, start = data[found.start() + 1], found.end()
        if marker == END_OF_IMAGE:
            break
        scans += marker == START_OF_SCAN
        start += int.from_bytes(data[start : start + 2])
    return scans


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


def find_gif_damage(data: bytes) -> str:
    """The damage of a GIF that `decode_levels` can read nevertheless; empty if there is none.

    A GIF has no checksum. OpenCV reads one more strictly than Pillow, and takes three times as long.
    """
    with contextlib.suppress(cv2.error):
        if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) is not None:
            return ""
    return "is damaged inside"
