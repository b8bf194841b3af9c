"""Bodies that are no photograph, or a dangerous one."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

HEIC = Path(__file__).parents[1] / "data" / "files" / "two-colors.heic"
HUGE = ((0, 0), (1, 2**31 - 1), (2**31 - 1, 1), (60_000, 60_000), (2**32 - 1, 2**32 - 1), (30_000_000, 30))


def photographs() -> dict[str, bytes]:
    """A small photograph of each kind."""
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    webp = io.BytesIO()
    Image.fromarray(image).save(webp, "webp")
    made = {suffix: bytes(cv2.imencode(f".{suffix}", image)[1]) for suffix in ("jpg", "png")}
    return {**made, "webp": webp.getvalue(), "heic": HEIC.read_bytes()}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that claims this size; `data` are its compressed rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def other_kinds() -> Iterator[tuple[str, bytes]]:
    """Whole files that are no photograph, also with one inside or behind."""
    photos = photographs()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("car.jpg", photos["jpg"])
    yield "zip", archive.getvalue()
    for suffix in ("gif", "tiff", "bmp"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, suffix)
        yield suffix, file.getvalue()
    for name, start in {
        "pdf": b"%PDF-1.7\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://169.254.169.254/"/></svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "php": b"<?php system($_GET['c']); ?>",
        "json": b'{"url": "http://169.254.169.254/latest/meta-data"}',
        "address": b"https://example.com/car.jpg",
        "path": b"/etc/passwd",
        "movie": b"\0\0\0\x18ftypisom\0\0\0\0",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "nothing": b"\0" * 1000,
        "line": b"\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94",
    }.items():
        yield name, start
        yield f"{name} before a photograph", start + photos["jpg"]


def damaged() -> Iterator[tuple[str, bytes]]:
    """Photographs that are cut off or whose header is wrong."""
    for suffix, data in photographs().items():
        for share in range(1, 25):
            yield f"{suffix} cut off at {share}/25", data[: len(data) * share // 25]
    whole = photographs()["png"]
    for place in range(8, 48, 2):
        yield f"png with byte {place} changed", whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]


def too_large() -> Iterator[tuple[str, bytes]]:
    """Small files that claim or contain a huge picture."""
    for width, height in HUGE:
        yield f"png of {width}x{height}", png(width, height, zlib.compress(b"\0" * 100))
    photos = photographs()
    frame = photos["jpg"].index(b"\xff\xc0") + 5
    for height, width in ((0, 0), (65_535, 65_535), (65_535, 1), (1, 65_535)):
        size = struct.pack(">HH", height, width)
        yield f"jpeg of {width}x{height}", photos["jpg"][:frame] + size + photos["jpg"][frame + 4 :]
    lossy = photos["webp"].index(b"\x9d\x01\x2a") + 3
    yield "webp of 16383x16383", photos["webp"][:lossy] + b"\xff\x3f\xff\x3f" + photos["webp"][lossy + 4 :]
    size = photos["heic"].index(b"ispe") + 8
    for side in (0, 2**31 - 1, 2**32 - 1, 60_000):
        yield f"heic of {side}", photos["heic"][:size] + struct.pack(">II", side, side) + photos["heic"][size + 8 :]
    rows = zlib.compress(b"\0" * 200_000_000, 9)
    yield "png of 100,000,000 pixels in 200 kB", png(10_000, 10_000, rows)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "\0" * 100_000_000, zip=True)
    bomb = io.BytesIO()
    Image.new("RGB", (9_000, 9_000)).save(bomb, "png", pnginfo=text)
    yield "png of 81,000,000 pixels with a text of 100 MB", bomb.getvalue()


def odd() -> Iterator[tuple[str, bytes]]:
    """Files that some decoders take and others don't; whatever happens, it isn't the server's error."""
    photos = photographs()
    yield "png whose rows never end", png(64, 48, zlib.compress(b"\0" * 300_000_000, 9))
    yield (
        "png with a compressed text of 100 MB",
        png(64, 48, zlib.compress(b"\0" * (48 * 193)), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 100_000_000, 9))),
    )
    yield (
        "png with a profile of 100 MB",
        png(64, 48, zlib.compress(b"\0" * (48 * 193)), chunk(b"iCCP", b"a\0\0" + zlib.compress(b"a" * 100_000_000, 9))),
    )
    yield "jpeg and then a zip", photos["jpg"] + b"PK\3\4" * 1000
    yield "png and then a script", photos["png"] + b"<script>alert(1)</script>"
    movie = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(0, 250, 5)]
    frames[0].save(movie, "webp", save_all=True, append_images=frames[1:])
    yield "webp with 50 pictures", movie.getvalue()
    random = np.random.default_rng(1)
    for suffix, data in photos.items():
        for turn in range(8):
            changed = np.frombuffer(data, np.uint8).copy()
            changed[random.integers(12, len(changed), 6)] ^= random.integers(1, 255, 6).astype(np.uint8)
            yield f"{suffix} with six bytes changed, {turn}", changed.tobytes()


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(file, "jpeg", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


KINDS: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
    "other kinds": other_kinds,
    "damaged": damaged,
    "too large": too_large,
    "odd": odd,
}
