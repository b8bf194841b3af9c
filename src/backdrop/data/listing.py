"""Lists a folder of images: each file is either taken, or passed over with a reason."""

import contextlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backdrop.common import storage
from backdrop.common.errors import DataError, StorageError
from backdrop.common.names import MAX_BYTES, is_plain
from backdrop.common.outputs import written_by
from backdrop.common.places import INVENTORY
from backdrop.common.words import count
from backdrop.config.records import Record
from backdrop.data.formats import format_of

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
IMAGE_SUFFIXES = JPEG_SUFFIXES | {".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif", ".hif"}
MASK_SUFFIXES = {".gif", ".png"}
# Image formats that aren't read: cameras' raw files, and those of browsers and editors.
OTHER_IMAGES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".hdr", ".iiq", ".jp2", ".jpx", ".jxl"),
    *(".nef", ".orf", ".pef", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".tga", ".x3f", ".xcf"),
}
# Endings that labeling tools and cut-out services add to a photograph's name.
ENDINGS = "mask|matte|alpha|cutout|cut-out|seg|segmentation|no-?bg|removebg-preview"
MASK_ENDING = re.compile(rf"[-_. ]+({ENDINGS})$", re.IGNORECASE)
INNER_SUFFIX = re.compile(f"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$", re.IGNORECASE)  # of shoe.jpg.png
# Names that outputs, tables or S3 can't have.
NOT_UTF8, TOO_LONG = "name isn't UTF-8", "name is too long"
UNSAFE = "name contains a backslash or a control character"
BAD_NAMES = (NOT_UTF8, TOO_LONG, UNSAFE)
LONGEST = MAX_BYTES - len(".webp")  # bytes of a stem, so that its results have names, too
# What file managers and storage keep for themselves, in lower case: previews, and what was deleted or saved earlier.
SYSTEM_NAMES = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "__macosx", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology's and QNAP's
}
MASKS = "train_masks"  # a dataset's folder of masks
MASK_FOLDER = "folder of masks"
DATASETS = ("import", "sample")  # steps that write photographs
PARTIAL = ".partial"  # ends the name of the folder in which `predict` keeps what is done until all is
PART = re.compile(r"[0-9a-f]{64}")  # and that of each file and folder there


class PassedOver(Record):
    """A file that isn't read, the reason, and whether it looks like a photograph that you would miss."""

    file: str
    reason: str
    photograph: bool = False


@dataclass(frozen=True)
class Listing:
    """The images of a folder by name, and its other files, without hidden files."""

    images: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...]


def list_images(folder: Path, suffixes: set[str]) -> Listing:
    """Lists a folder without its subfolders; an empty listing if it doesn't exist.

    Args:
        folder: the folder that directly contains the images.
        suffixes: of the files to take, in lower case.
    """
    return sort_out(sorted(folder.iterdir()) if folder.is_dir() else [], suffixes)


def list_tree(folder: Path, suffixes: set[str], skipped: Collection[Path] = ()) -> Listing:
    """Lists a folder and its subfolders, but not hidden ones, closed ones, or symbolic links to folders.

    Args:
        folder: the folder.
        suffixes: of the files to take, in lower case.
        skipped: absolute paths of subfolders to leave out.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.absolute() not in skipped]
    subfolders = [path for path in inside if _is_subfolder(path, suffixes)]
    listing = sort_out([path for path in inside if path not in subfolders], suffixes)
    for subfolder in subfolders:
        below = list_tree(subfolder, suffixes, skipped)
        listing = Listing(listing.images + below.images, listing.passed_over + below.passed_over)
    return listing


def _is_subfolder(path: Path, suffixes: set[str]) -> bool:
    """Whether to look into a path; a folder that is named like an image is reported as one that can't be read."""
    named_so = is_hidden(path.name) or path.suffix.lower() in suffixes or name_fault(path)
    return path.is_dir() and not path.is_symlink() and not named_so and not closed(path)


def is_hidden(name: str) -> bool:
    """Whether a file or folder below the one that was named is left out without a word."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def closed(folder: Path) -> str:
    """The reason why a folder below the one that was named isn't searched for photographs; empty if it is."""
    return MASK_FOLDER if folder.name == MASKS else results_in(folder)


def results_in(folder: Path) -> str:
    """The command whose results a folder below the one that was named holds, in words; empty if none."""
    with contextlib.suppress(OSError, StorageError):  # one that can't be read is reported when it is searched
        if folder.suffix == PARTIAL and any(PART.fullmatch(path.stem) for path in folder.iterdir()):
            return "unfinished results of `backdrop predict`"
        return result_of(folder)
    return ""


def result_of(address: str | Path) -> str:
    """The command whose results are at an address, in words; empty if they are photographs, or nothing is there."""
    step = written_by(address)
    return f"results of `backdrop {step}`" if step and step not in DATASETS else ""


def results_below(prefix: str, names: Iterable[str]) -> dict[PurePosixPath, str]:
    """The folders of commands' results below an `s3://` prefix, each with the command in words, as `result_of`.

    Args:
        prefix: the address; its own results aren't looked for.
        names: of all files below it.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    results: dict[PurePosixPath, str] = {}
    for folder in sorted(PurePosixPath(name).parent for name in names if name.endswith(f"/{INVENTORY}")):
        if results.keys().isdisjoint(folder.parents) and (reason := result_of(f"{prefix.rstrip('/')}/{folder}")):
            results[folder] = reason
    return results


def sort_out(paths: Iterable[Path], suffixes: set[str]) -> Listing:
    """Lists files as `list_images` does, whatever folders they are in."""
    images, others = [], []
    for path in paths:
        if is_hidden(path.name):
            continue
        passed = _reason(path, suffixes)
        if passed is None:
            images.append(path)
        else:
            others.append(passed)
    # A raw file or a video beside a photograph of the same name isn't missed.
    stems = {Path(printable(path)).with_suffix("") for path in images}
    kept = [
        one.model_copy(update={"photograph": False}) if Path(one.file).with_suffix("") in stems else one
        for one in others
    ]
    return Listing(tuple(images), tuple(kept))


def printable(path: str | Path) -> str:
    r"""A path, of a copy its address, on one line and in UTF-8: other bytes and control characters become \xNN."""
    text = os.fsencode(storage.origin(path)).decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(letter):02x}" if ord(letter) < ord(" ") or letter == "\x7f" else letter for letter in text)


def name_fault(path: Path) -> str:
    """What is wrong with a file's name, one of `BAD_NAMES`; empty if outputs, tables and S3 can have it."""
    if not is_plain(path.name):
        return UNSAFE
    if printable(path.name) != path.name:
        return NOT_UTF8
    return TOO_LONG if len(path.stem.encode()) > LONGEST else ""


def bad_name(fault: str) -> str:
    """One of `BAD_NAMES` as a message says it of a file, such as `has a name that is too long`."""
    return f"has a {fault.replace('name', 'name that', 1)}"


def normalized(name: str) -> str:
    """A name with composed accents (NFC), because macOS decomposes them."""
    return unicodedata.normalize("NFC", name)


def base_stem(stem: str) -> str:
    """A mask's stem without `_mask`, and without its photograph's suffix inside it; as it is if nothing is left."""
    return INNER_SUFFIX.sub("", MASK_ENDING.sub("", stem)) or stem


def names_doubt(names: Iterable[tuple[str, str]]) -> str:
    """What makes it doubtful that names are of objects and views, and not a camera's; empty if nothing does.

    Args:
        names: each photograph's object and view.
    """
    distinct = set(names)
    objects, views = Counter(name for name, _ in distinct), Counter(view for _, view in distinct)
    if len(distinct) < 2:
        return ""
    if len(objects) == 1:
        return "all photographs are of one object"
    return "" if max(views.values()) > 1 else "no view occurs in two objects"


def summarize(passed_over: Iterable[PassedOver]) -> str:
    """`4 files passed over: .heic (1), .txt (3)`; empty if there are none."""
    kinds = Counter(_kind(one) for one in passed_over)
    listed = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
    return f"{count(kinds.total(), 'file')} passed over: {listed}" if kinds else ""


def _kind(one: PassedOver) -> str:
    return one.reason if one.reason in BAD_NAMES else Path(one.file).suffix.lower() or one.reason


def none_found(what: str, remedy: str, passed_over: Iterable[PassedOver]) -> DataError:
    """The error of a place without photographs: all of its files, if there are any, were passed over."""
    others = summarize(passed_over)
    return DataError(what, remedy + (f" ({others})" if others else ""))


def _reason(path: Path, suffixes: set[str]) -> PassedOver | None:
    """The reason to pass over a file; None to take it. A file named like an image is taken, and may fail when read."""
    suffix, name = path.suffix.lower(), printable(path)
    if suffix in suffixes:
        fault = name_fault(path)
        return PassedOver(file=name, reason=fault, photograph=True) if fault else None
    if path.is_dir():
        if reason := closed(path):
            return PassedOver(file=name, reason=reason)
        reason = "link to a folder" if path.is_symlink() else "folder"
        return PassedOver(file=name, reason=reason, photograph=_holds_images(path))
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
            return format_of(file.read(64)) not in ("", "lfs")
    except OSError:
        return False
