"""Finds the photographs of an imported folder, and their masks beside them or elsewhere."""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from backdrop.common.errors import ConfigError, DataError, StorageError
from backdrop.config.explain import suggest
from backdrop.data.dataset import read_file
from backdrop.data.formats import decode_levels, format_of
from backdrop.data.importing.annotations import Outlines, read_annotations, read_labels
from backdrop.data.listing import (
    IMAGE_SUFFIXES,
    JPEG_SUFFIXES,
    MASK_ENDING,
    MASK_SUFFIXES,
    PassedOver,
    base_stem,
    is_hidden,
    list_images,
    normalized,
    printable,
    results_in,
)
from backdrop.data.mask_files import alpha_of, interpret

READ = IMAGE_SUFFIXES | MASK_SUFFIXES | {".json"}
SAME = "is the same photograph as {}, by its name"

Mask = Path | Outlines


@dataclass(frozen=True)
class Source:
    """A photograph: its path in the imported folder, its file, and its mask unless that is its own alpha channel."""

    name: PurePosixPath
    file: Path
    mask: Mask | None


@dataclass
class Sources:
    """All photographs, duplicates, and the files that are neither photograph nor mask."""

    photos: list[Source] = field(default_factory=list)
    duplicates: dict[PurePosixPath, str] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)


def find_sources(root: Path, masks: Path | None, labels: Collection[str]) -> Sources:
    """Searches a folder and its subfolders.

    Args:
        root: the folder.
        masks: a folder of masks (images, or labelme's JSON), or a COCO file; None to look beside the photographs.
        labels: labels of annotations to take; all if empty.

    Raises:
        ConfigError: if a label is in no annotations.
        DataError: if annotations can't be read, or it isn't clear which photograph a mask belongs to.
        StorageError: if a folder can't be read.
    """
    sources = Sources()
    files = [file for file in _walk(root, sources.passed_over, masks) if masks is None or not _within(file, masks)]
    drawn = _Masks(root, masks, labels, sources.passed_over)
    drawn.read([file for file in files if file.suffix.lower() == ".json"], sources.passed_over)
    drawn.require_found()
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        if file.suffix.lower() != ".json":
            groups.setdefault((file.parent, _base(file)), []).append(file)
    for group in groups.values():
        _sort(root, group, drawn, sources)
    sources.passed_over += drawn.unused()
    return sources


def _walk(folder: Path, passed_over: list[PassedOver], named: Path | None = None) -> Iterator[Path]:
    """The usable files below a folder (or the file itself), without hidden files, links to folders and our results.

    Args:
        folder: the folder.
        passed_over: gets the files that can't be used, and the folders of results.
        named: a folder that is taken, though it has results.
    """
    if folder.is_file():
        yield folder
        return
    for root, folders, _ in os.walk(folder, onerror=_refuse):
        shown = sorted(name for name in folders if not is_hidden(name))
        taken = {name for name in shown if named and _within(named, Path(root, name))}
        folders[:] = [name for name in shown if name in taken or not results_in(Path(root, name))]
        listing = list_images(Path(root), READ)  # names folders of results, too
        told = {printable(Path(root, name)) for name in taken}
        passed_over += [one for one in listing.passed_over if one.reason != "folder" and one.file not in told]
        yield from (file for file in listing.images if not file.is_dir())


def _refuse(error: OSError) -> None:
    raise StorageError(f"{printable(error.filename)} can't be read ({error.strerror})", "Check path and permissions")


def _within(file: Path, folder: Path) -> bool:
    inner, outer = Path(os.path.realpath(file)), Path(os.path.realpath(folder))  # resolve() fails at a circle of links
    return outer in (inner, *inner.parents)


def _base(file: Path) -> str:
    """The part of the name that a photograph and its mask share."""
    return base_stem(normalized(file.stem)).lower()


def _sort(root: Path, group: list[Path], drawn: "_Masks", sources: Sources) -> None:
    """Sorts files of one name into the photograph, its mask and its duplicates."""
    named = [file for file in group if MASK_ENDING.search(normalized(file.stem))]
    masks = named + [file for file in group if file not in named and file.suffix.lower() == ".gif"]
    if not masks or masks == group:  # their names don't say which is which
        masks = [file for file in group if _looks_like_mask(file)] if len(group) > 1 or masks else []
    photos = [file for file in group if file not in masks]
    if not photos:
        sources.passed_over += [_alone(file, "mask without a photograph beside it; see --masks") for file in masks]
        return
    photos.sort(key=lambda file: (file.suffix.lower() not in JPEG_SUFFIXES, file.suffix.lower() != ".png", file.name))
    name = _seen_from(root, photos[0])
    sources.photos.append(Source(name, photos[0], drawn.of(name) or (masks[0] if masks else None)))
    sources.passed_over += [_alone(file, f"another mask of {name}") for file in masks[1:]]
    sources.duplicates |= {_seen_from(root, file): SAME.format(name) for file in photos[1:]}


def _alone(file: Path, reason: str) -> PassedOver:
    return PassedOver(file=printable(file), reason=reason, photograph=True)


def _looks_like_mask(file: Path) -> bool:
    """Whether an image is a mask: it has two levels, or an alpha channel that cuts it out."""
    if file.suffix.lower() in JPEG_SUFFIXES:
        return False
    try:
        data = read_file(file)
        if format_of(data) not in ("png", "gif", "webp", "tiff", "bmp"):
            return False
        levels = decode_levels(data, printable(file))
    except DataError:
        return False
    return alpha_of(levels) is not None or interpret(levels).mask is not None


def _seen_from(root: Path, file: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(root).as_posix())


class _Masks:
    """Masks in a separate folder or in annotations, by the name of their photograph."""

    def __init__(self, root: Path, folder: Path | None, labels: Collection[str], passed_over: list[PassedOver]) -> None:
        self._labels = labels
        self._known: set[str] = set()
        self._root = root
        self._by_stem: dict[str, list[tuple[PurePosixPath, Mask]]] = {}
        self._owners: dict[int, PurePosixPath] = {}
        self._empty: Path | None = None  # a file of masks that has none
        if folder is not None:
            annotations = []
            for file in _walk(folder, passed_over):
                if file.suffix.lower() == ".json":
                    annotations.append(file)
                else:
                    self._add(_key(PurePosixPath(file.relative_to(folder).as_posix())), file)
            self.read(annotations, passed_over)
            self._empty = folder if folder.is_file() and not self._by_stem else None

    def read(self, files: Iterable[Path], passed_over: list[PassedOver]) -> None:
        """Adds the masks of annotations; other JSON files are added to `passed_over`."""
        for file in files:
            outlines = read_annotations(file, self._labels)
            self._known |= read_labels(file) if self._labels else set()
            if not outlines:
                passed_over.append(PassedOver(file=printable(file), reason="JSON without outlines"))
            near = file.parent.relative_to(self._root).as_posix() if file.is_relative_to(self._root) else "."
            for name, drawn in outlines.items():
                key = _key(PurePosixPath(near, name) if drawn.kind == "labelme" else PurePosixPath(name))
                self._add(key, drawn)

    def require_found(self) -> None:
        """Refuses labels that occur in no annotations, and a file of masks that has none.

        Raises:
            ConfigError: if a label doesn't occur.
            DataError: if the file has no outlines.
        """
        for label in sorted(set(self._labels) - self._known):
            remedy = suggest(label, self._known) if self._known else "Name the file with --masks"
            raise ConfigError(f"--label {label} is in no COCO or labelme file", remedy)
        if self._empty is not None:
            raise DataError(f"{printable(self._empty)} has no outlines", "Export them as COCO or labelme")

    def of(self, name: PurePosixPath) -> Mask | None:
        """The mask of a photograph: one path must end with the other.

        Raises:
            DataError: if there are several, or it belongs to several photographs.
        """
        key = _key(name)
        fitting = [(path, mask) for path, mask in self._by_stem.get(key.name, []) if _ends_alike(path, key)]
        if not fitting:
            return None
        remedy = "Lay the masks out in the same folders as the photographs"
        longest = max(len(path.parts) for path, _ in fitting)
        best = [mask for path, mask in fitting if len(path.parts) == longest]
        if len(best) > 1:
            raise DataError(f"{name} has several masks of its name: {', '.join(sorted(map(shown, best))[:3])}", remedy)
        owner = self._owners.setdefault(id(best[0]), name)
        if owner != name:
            raise DataError(
                f"{owner} and {name} would both have the mask {shown(best[0])}",
                f"{remedy}, or import a folder without the other",
            )
        return best[0]

    def unused(self) -> list[PassedOver]:
        """Masks without a photograph, and COCO files of which no photograph is there."""
        masks = [mask for same in self._by_stem.values() for _, mask in same]
        used = {shown(mask) for mask in masks if id(mask) in self._owners}
        reasons: dict[str, str] = {}
        for mask in masks:
            of_many = isinstance(mask, Outlines) and mask.kind == "coco"
            if of_many and shown(mask) not in used:
                reasons[shown(mask)] = "no photograph has a name that is in it"
            elif not of_many and id(mask) not in self._owners:
                reasons[shown(mask)] = "mask without a photograph"
        return [PassedOver(file=file, reason=reason, photograph=True) for file, reason in sorted(reasons.items())]

    def _add(self, key: PurePosixPath, mask: Mask) -> None:
        self._by_stem.setdefault(key.name, []).append((key, mask))


def _ends_alike(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether the longer of two paths ends with the shorter."""
    shorter = min(len(one.parts), len(other.parts))
    return one.parts[-shorter:] == other.parts[-shorter:]


def shown(mask: Mask) -> str:
    """A mask's file, for messages."""
    return printable(mask.file if isinstance(mask, Outlines) else mask)


def _key(name: PurePosixPath) -> PurePosixPath:
    """A photograph's path without suffix, `_mask` and case, in which its mask's may differ."""
    plain = PurePosixPath(os.path.normpath(normalized(name.as_posix())))
    return PurePosixPath(PurePosixPath(plain.parent, base_stem(plain.stem)).as_posix().lower())  # it may have no name
