"""Finds the photographs that a command's inputs name: files, folders, patterns and `s3://` addresses."""

import glob
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from backdrop.common import s3, storage
from backdrop.common.errors import ConfigError, DataError, StorageError
from backdrop.common.progress import log
from backdrop.data.dataset import CHUNK
from backdrop.data.listing import (
    IMAGE_SUFFIXES,
    MASK_FOLDER,
    MASKS,
    Listing,
    PassedOver,
    bad_name,
    closed,
    is_hidden,
    list_tree,
    name_fault,
    none_found,
    normalized,
    printable,
    results_below,
    sort_out,
    summarize,
)

STDIN = "-"
SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True)
class Source:
    """A photograph's file, its name in outputs (a relative path with `/` between folders), and its sha256 if known."""

    path: Path
    name: str
    digest: str | None = None


@dataclass(frozen=True)
class Shard:
    """One of several shares of a folder's photographs, whose results together are those of one run.

    Attributes:
        images: the folder or `s3://` prefix.
        number: which share, from 1 on.
        count: how many shares there are.
        names: the photographs to share, as `list_names` returns them; None for all.
    """

    images: str
    number: int
    count: int
    names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str, inputs: Sequence[str]) -> Shard:
    """The share that `--shard` names: `2/4` is the second of four.

    Raises:
        ConfigError: if it isn't of that form, or the inputs aren't one folder.
    """
    match = SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--shard {text} is not a share", "Write it as 2/4, the second of four")
    if len(inputs) != 1 or not (storage.is_remote(inputs[0]) or Path(inputs[0]).is_dir()):
        raise ConfigError("--shard shares the photographs of one folder or prefix", "Name one, without patterns")
    return Shard(inputs[0], int(match[1]), int(match[2]))


def list_names(images: str, skipped: Collection[Path] = ()) -> list[str]:
    """The names of the photographs below a folder or prefix, sorted; other files in the folder are counted in a line.

    Raises:
        DataError: if there are none, or two would have outputs of one name.
        StorageError: if it can't be listed.
    """
    if not storage.is_remote(images):
        found, passed_over = find_photographs([images], skipped)
        if passed_over:
            log(summarize(passed_over))
        return [source.name for source in found]
    sources: dict[str, Source] = {}
    for path in map(PurePosixPath, _searched(images)[0]):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            _add(Source(Path(path), str(path)), sources)
    if not sources:
        raise DataError(f"{images} has no photographs", "Name the prefix that they lie below")
    return sorted(source.name for source in sources.values())


def find_shard(shard: Shard, names: Sequence[str]) -> list[Source]:
    """The photographs of a share, copied from S3 if they are there.

    A share has whole chunks of `names`, so that networks see the same batches as in one run over all.

    Raises:
        StorageError: if they can't be copied.
    """
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)][shard.number - 1 :: shard.count]
    chosen = [name for chunk in chunks for name in chunk]
    if not chosen:
        return []
    folder = storage.local_folder(shard.images, frozenset(chosen))
    return [Source(folder / name, name) for name in chosen]


def find_photographs(inputs: Sequence[str], skipped: Collection[Path]) -> tuple[list[Source], tuple[PassedOver, ...]]:
    """The photographs by name, and the other files.

    A photograph's name is its path below the folder or prefix that was named, or below a pattern's folder.

    Args:
        inputs: files, folders, patterns such as `photos/**/*_01.jpg`, `s3://` objects and prefixes.
        skipped: absolute paths of folders not to look into.

    Raises:
        ConfigError: if an input is `-`.
        DataError: if there are no photographs, one that is named has a name that outputs can't have, or two would have
            outputs of one name.
        StorageError: if an input doesn't exist or can't be read.
    """
    sources: dict[str, Source] = {}
    passed_over: dict[str, PassedOver] = {}
    for one in inputs:
        root, listing = _list(one, skipped)
        passed_over |= {other.file: _below(root, other) for other in listing.passed_over}
        for source in _sources(root, listing):
            _add(source, sources)
    if not sources:
        remedy = "Name the folder that they lie in, such as DATA/test"
        raise none_found(f"{printable(', '.join(inputs))} has no photographs", remedy, passed_over.values())
    return sorted(sources.values(), key=lambda source: source.name), tuple(passed_over.values())


def _list(address: str, skipped: Collection[Path]) -> tuple[Path, Listing]:
    """The folder below which an input's photographs have their names, and its files."""
    if address == STDIN:
        raise ConfigError("- stands for one photograph on standard input", "Name it alone, and leave --out out")
    storage.require_named(address)
    path = Path(address)
    if storage.is_remote(address):
        is_object = not address.endswith("/") and "/" in address.removeprefix("s3://") and s3.is_file(address)
        if not is_object:
            return _copy(address)
        path = storage.local_file(address)
    try:
        if path.is_dir():
            return path, list_tree(path, IMAGE_SUFFIXES, skipped)
        if path.exists():
            if fault := name_fault(path):
                raise DataError(f"{printable(path)} {bad_name(fault)}", "Rename it")
            return path.parent, Listing((path,), ())  # whatever its suffix says
        return _expand(address, skipped)
    except OSError as error:
        what = f"{printable(error.filename or address)} can't be read ({error.strerror})"
        raise StorageError(what, "Check path and permissions") from error


def _copy(prefix: str) -> tuple[Path, Listing]:
    """The files below a prefix, copied; not those in folders that aren't searched."""
    names, closed_folders = _searched(prefix)
    root = storage.local_folder(prefix, frozenset(names))
    listing = list_tree(root, IMAGE_SUFFIXES)
    others = (PassedOver(file=printable(root / folder), reason=reason) for folder, reason in closed_folders.items())
    return root, Listing(listing.images, (*listing.passed_over, *others))


def _searched(prefix: str) -> tuple[list[str], dict[PurePosixPath, str]]:
    """The names of the files below a prefix that may be photographs, and the folders that aren't searched for them."""
    files = storage.list_files(prefix, hidden=True)
    results = results_below(prefix, files)
    found, closed_folders = [], {}
    for path in (PurePosixPath(name) for name in files if not any(map(is_hidden, name.split("/")))):
        above = [folder for folder in reversed(path.parents) if folder in results or folder.name == MASKS]
        if above:
            closed_folders[above[0]] = results.get(above[0], MASK_FOLDER)
        else:
            found.append(str(path))
    return found, closed_folders


def _expand(pattern: str, skipped: Collection[Path]) -> tuple[Path, Listing]:
    parts = Path(pattern).parts
    plain = next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)
    if plain is None:
        raise StorageError(f"{printable(pattern)} doesn't exist", "Check the path")
    root = Path(*parts[:plain])
    paths = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  # no names with a dot
    if not paths:
        raise StorageError(f"No file matches {printable(pattern)}", "Check the pattern, and put it in quotes")
    is_closed = cache(lambda folder: folder.name not in parts and (is_hidden(folder.name) or bool(closed(folder))))
    depth = len(root.parts)
    paths = [path for path in paths if not any(is_closed(path.parents[i]) for i in range(len(path.parts) - depth - 1))]
    folders = [path for path in paths if path.is_dir() and not is_closed(path)]
    listing = sort_out([path for path in paths if path not in folders], IMAGE_SUFFIXES)
    for folder in folders:
        if folder.absolute() not in skipped:
            below = list_tree(folder, IMAGE_SUFFIXES, skipped)
            listing = Listing(listing.images + below.images, listing.passed_over + below.passed_over)
    return root, listing


def _sources(root: Path, listing: Listing) -> Iterable[Source]:
    return (Source(path, path.relative_to(root).as_posix()) for path in listing.images)


def _below(root: Path, one: PassedOver) -> PassedOver:
    return one.model_copy(update={"file": str(Path(one.file).relative_to(printable(root)))})


def _add(source: Source, sources: dict[str, Source]) -> None:
    """Adds a photograph; the same one may come twice, but no other whose output would have the same name."""
    stem = normalized(str(PurePosixPath(source.name).with_suffix("")))
    other = sources.setdefault(stem, source)
    if other.path.absolute() != source.path.absolute():
        both = f"{printable(other.path)} and {printable(source.path)}"
        raise DataError(f"{both} have one stem", "Keep one of them, or predict them separately")
