"""The files of a folder of images: each is taken, or passed over with a reason that somebody will read."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backdrop.common.words import count
from backdrop.config.records import Record
from backdrop.data.formats import kind_of

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
IMAGE_SUFFIXES = JPEG_SUFFIXES | {".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif"}
MASK_SUFFIXES = {".gif", ".png"}
# Images that aren't read: cameras' raw files, and what browsers and editors write.
OTHER_IMAGES = {
    *(".3fr", ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".hdr", ".hif", ".iiq", ".jp2", ".jpx", ".jxl"),
    *(".nef", ".orf", ".pef", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".tga", ".x3f", ".xcf"),
}
NOT_UTF8 = "name isn't UTF-8"
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


class PassedOver(Record):
    """A file that isn't read, why, and whether it looks like a photograph that somebody would miss."""

    file: str
    reason: str
    photograph: bool = False


@dataclass(frozen=True)
class Listing:
    """The images of a folder by name, and the other files. Hidden files are in neither."""

    images: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...]


def list_images(folder: Path, suffixes: set[str]) -> Listing:
    """Lists a folder, not those in it; an empty listing if there is no such folder.

    Args:
        folder: where the images themselves are.
        suffixes: of the files that are taken, in lower case.
    """
    images, others = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
            continue
        passed = _reason(path, suffixes)
        if passed is None:
            images.append(path)
        else:
            others.append(passed)
    # A raw file, or a video, beside the photograph of its name is no loss.
    stems = {path.stem for path in images}
    kept = [one.model_copy(update={"photograph": False}) if Path(one.file).stem in stems else one for one in others]
    return Listing(tuple(images), tuple(kept))


def printable(path: str | Path) -> str:
    r"""A path that can be printed and written as UTF-8: bytes of a name that aren't UTF-8 are shown as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(path: Path) -> bool:
    """Whether a file's name can be written into tables and sent to S3."""
    return printable(path.name) == path.name


def normalized(name: str) -> str:
    """A name whose accents are composed (NFC): macOS decomposes them, and both are the same name."""
    return unicodedata.normalize("NFC", name)


def summarize(passed_over: Iterable[PassedOver]) -> str:
    """`4 files passed over: .heic (1), .txt (3)`; empty if there are none."""
    kinds = Counter(Path(one.file).suffix.lower() or one.reason for one in passed_over)
    listed = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
    return f"{count(kinds.total(), 'file')} passed over: {listed}" if kinds else ""


def _reason(path: Path, suffixes: set[str]) -> PassedOver | None:
    """Why a file is passed over; None if it is taken. Whatever is named like an image is: it fails where it is read."""
    suffix, name = path.suffix.lower(), printable(path)
    if suffix in suffixes:
        return None if is_utf8(path) else PassedOver(file=name, reason=NOT_UTF8, photograph=True)
    if path.is_dir():
        return PassedOver(file=name, reason="folder", photograph=_holds_images(path))
    if not path.is_file():
        return PassedOver(file=name, reason="broken link" if path.is_symlink() else "not a regular file")
    return PassedOver(file=name, reason=f"{suffix or 'unnamed'} files aren't read", photograph=_is_image(path))


def _holds_images(folder: Path) -> bool:
    return any(_is_image(Path(root, name)) for root, _, names in os.walk(folder) for name in names)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES | OTHER_IMAGES or not path.is_file():
        return path.is_file()
    try:
        with path.open("rb") as file:
            return kind_of(file.read(64)) not in ("", "lfs")
    except OSError:
        return False
