"""Photographs and masks in Kaggle's own Carvana layout, each file known by its digest.

`train/<object>_<view>.jpg` with `train_masks/<object>_<view>_mask.gif` (or `.png`). A Kaggle download works as it is.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage
from backdrop.common.errors import DataError
from backdrop.config.records import Record
from backdrop.data.formats import decoded, decoded_levels
from backdrop.data.listing import (
    BAD_NAMES,
    IMAGE_SUFFIXES,
    JPEG_SUFFIXES,
    MASK_SUFFIXES,
    MASKS,
    Listing,
    PassedOver,
    bad_name,
    base_stem,
    list_images,
    none_found,
    normalized,
    printable,
    results_below,
)
from backdrop.data.mask_files import CONVERT, MaskFile, interpret
from backdrop.data.masks import Mask, mask_digest
from backdrop.data.metadata import LICENSES, METADATA

CHUNK = 32  # photographs in memory at once
FOLDERS = {"train": IMAGE_SUFFIXES, MASKS: MASK_SUFFIXES, "test": IMAGE_SUFFIXES}
OWN_NAMES = frozenset({*FOLDERS, METADATA, *LICENSES})  # of all that a dataset is made of

# Of a photograph's file and of its mask's pixels, by stem.
Digests = dict[str, tuple[str, str]]


class Fault(Record):
    """A fault of a file: an error stops a pipeline, a warning doesn't."""

    level: Literal["error", "warning"]
    file: str
    what: str
    remedy: str

    def error(self) -> DataError:
        """The exception for a command that can't continue with this fault."""
        return DataError(f"{self.file} {self.what}", self.remedy)


@dataclass(frozen=True)
class Photo:
    """One photograph: its stem `<object>_<view>`, its file, and its mask's file if there is one.

    The mask's file holds probabilities if it is `soft`.
    """

    stem: str
    object: str
    view: str
    image: Path
    mask: Path | None
    soft: bool = False


@dataclass(frozen=True)
class Dataset:
    """A dataset's photographs by stem, sorted, and the masks without a photograph.

    Attributes:
        root: its folder on this machine.
        photos: the photographs in `train`.
        orphans: masks without a photograph.
        unlabeled: the photographs in `test`, which have no masks.
        faults: files of `train` and `train_masks` whose names are wrong.
        unlabeled_faults: files of `test` whose names `label` can't use.
        passed_over: files of all three folders that aren't read, without those in `unusable`, as `orphans`.
        unusable: masks whose format isn't read or whose name isn't quite right, by the stem of a photograph that has no
            other mask.
    """

    root: Path
    photos: dict[str, Photo]
    orphans: tuple[Path, ...]
    unlabeled: dict[str, Photo] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    unlabeled_faults: tuple[Fault, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    unusable: dict[str, Path] = field(default_factory=dict)

    def select(self, stems: Iterable[str]) -> list[Photo]:
        """The photographs with these stems, each with a mask.

        Raises:
            DataError: if one is missing or has no mask.
        """
        chosen = list(stems)
        for stem in chosen:
            if stem not in self.photos:
                raise DataError(
                    f"{printable(self.root)} has no photograph {stem}", "Name the dataset that the plan was made from"
                )
            if self.photos[stem].mask is None:
                raise self.missing_mask(self.photos[stem]).error()
        return [self.photos[stem] for stem in chosen]

    @property
    def labeled(self) -> list[Photo]:
        """The photographs with a mask."""
        return [photo for photo in self.photos.values() if photo.mask is not None]

    @property
    def unlabeled_passed_over(self) -> list[PassedOver]:
        """The files of `test` that aren't read."""
        folder = printable(self.root / "test")
        return [one for one in self.passed_over if Path(one.file).is_relative_to(folder)]

    def first(self, objects: int | None) -> "Dataset":
        """The dataset with this number of objects, the first by name, and their masks; all if None."""
        if objects is None:
            return self
        names = set(sorted({photo.object for photo in self.photos.values()})[:objects])
        photos = {stem: photo for stem, photo in self.photos.items() if photo.object in names}
        orphans = tuple(path for path in self.orphans if _stem(path, "_mask").rpartition("_")[0] in names)
        return replace(self, photos=photos, orphans=orphans)

    def missing_mask(self, photo: Photo) -> Fault:
        """The fault of a photograph without a mask."""
        unusable = self.unusable.get(photo.stem)
        if unusable is None:
            what, remedy = "has no mask", "Add its mask to train_masks/ or remove the photograph"
        else:
            reason, remedy = _not_read(unusable, photo.stem)
            what = f"has no mask: {reason}"
        return Fault(level="error", file=printable(photo.image), what=what, remedy=remedy)


def mask_files(folder: Path) -> dict[str, Path]:
    """The masks in a folder by the stem of their photograph; their names may end in `_mask`.

    Raises:
        DataError: if two have one stem.
    """
    files, faults = _by_stem(list_images(folder, MASK_SUFFIXES).images, "_mask")
    for fault in faults:
        raise fault.error()
    return files


def find_unusable(folder: Path, stem: str) -> tuple[str, str] | None:
    """A photograph's mask that can't be used: that it is there, and the remedy; None if there is none."""
    found = _unusable(list_images(folder, MASK_SUFFIXES), [stem])
    return _not_read(found[stem], stem) if found else None


def open_dataset(data: str | Path) -> Dataset:
    """Lists a dataset (local folder or `s3://` prefix, which is copied into the cache once).

    Raises:
        DataError: if there is no `train` folder or it holds no photographs, a file isn't named `<object>_<view>`, or
            two files have one stem.
        StorageError: if the folder or the prefix can't be read.
    """
    dataset = list_dataset(data)
    for fault in dataset.faults:
        raise fault.error()
    return dataset


def list_dataset(data: str | Path) -> Dataset:
    """Lists a dataset as `open_dataset` does, but returns wrong names in `faults` instead of raising the first.

    Raises:
        DataError: if there is no `train` folder or it holds no photographs.
        StorageError: if the folder or the prefix can't be read.
    """
    root = storage.local_folder(data, _own_files(str(data)) if storage.is_remote(data) else None)
    train, train_masks, test = (list_images(root / name, suffixes) for name, suffixes in FOLDERS.items())
    if not train.images:
        remedy = "Make a dataset of it by `backdrop import`, or lay it out as train/*.jpg and train_masks/*_mask.gif"
        if Path(data).absolute().name == "train":
            remedy = "Name the folder that it is in"
        raise none_found(f"{printable(data)} has no photographs in train/", remedy, train.passed_over)
    images, image_faults = _by_stem(train.images, "")
    masks, mask_faults = _by_stem(train_masks.images, "_mask")
    photos, name_faults = _name(images, masks)
    tests, test_twins = _by_stem(test.images, "")
    unlabeled, test_names = _name(tests, {})
    unusable = _unusable(train_masks, [photo.stem for photo in photos.values() if photo.mask is None])
    reported = {printable(path) for path in unusable.values()}
    passed_over = (*train.passed_over, *train_masks.passed_over, *test.passed_over)
    return Dataset(
        root,
        photos,
        orphans=tuple(
            path for stem, path in sorted(masks.items()) if stem not in images and printable(path) not in reported
        ),
        unlabeled=unlabeled,
        faults=(*name_faults, *_bad_names(train.passed_over + train_masks.passed_over), *image_faults, *mask_faults),
        unlabeled_faults=(*test_twins, *test_names),
        passed_over=tuple(one for one in passed_over if one.file not in reported),
        unusable=unusable,
    )


def _own_files(prefix: str) -> frozenset[str]:
    """The names of a dataset's files below a prefix; whatever else lies there isn't copied."""
    files = storage.list_files(prefix, hidden=True)
    results = results_below(prefix, files)
    paths = map(PurePosixPath, files)
    own = (path for path in paths if path.parts[0] in OWN_NAMES and results.keys().isdisjoint(path.parents))
    return frozenset(map(str, own))


def read_image(path: Path) -> NDArray[np.uint8]:
    """A photograph as a viewer shows it (EXIF orientation and color profile applied): (H, W, 3) sRGB, 0..255.

    Raises:
        DataError: if the file is missing, damaged, too large or not an image.
    """
    with opened_image(path) as image:
        return image


@contextmanager
def opened_image(path: Path, digest: str | None = None) -> Iterator[NDArray[np.uint8]]:
    """Like `read_image`, for pixels that are needed only inside the block; large photographs wait for each other.

    Args:
        path: the file.
        digest: its expected sha256, to verify it.
    """
    data = read_file(path)
    if digest is not None and storage.sha256(data) != digest:
        raise _changed(path)
    with decoded(data, printable(path)) as image:
        del data
        yield image


def read_mask_file(path: Path) -> MaskFile:
    """Reads and interprets a mask file, whether or not it is a usable mask.

    Raises:
        DataError: if the file is missing, damaged, too large, or no image.
    """
    with decoded_levels(read_file(path), printable(path)) as levels:
        return interpret(levels)


def read_mask(path: Path, digest: str | None = None) -> Mask:
    """A mask (H, W); the brighter of its file's two levels is the product.

    Args:
        path: the file.
        digest: its expected `mask_digest`, to verify it.

    Raises:
        DataError: if the file is missing, damaged, too large or not an image, has more than two levels, or has another
            digest.
    """
    file = read_mask_file(path)
    if file.mask is None:
        raise DataError(f"{printable(path)} {file.trouble}", file.remedy)
    if digest is not None and mask_digest(file.mask) != digest:
        raise _changed(path)
    return file.mask


def read_levels(photo: Photo, digest: str) -> NDArray[np.uint8]:
    """A photograph's mask (H, W), 0 and 255, or its soft mask, 0..255.

    Args:
        photo: the photograph, which has a mask.
        digest: the expected `mask_digest`, or sha256 of a soft mask's file.

    Raises:
        DataError: as `read_mask`.
    """
    assert photo.mask is not None  # Dataset.select has checked it
    if not photo.soft:
        return read_mask(photo.mask, digest).astype(np.uint8) * 255
    data = read_file(photo.mask)
    if storage.sha256(data) != digest:
        raise _changed(photo.mask)
    with decoded_levels(data, printable(photo.mask)) as levels:
        return np.asarray(levels, np.uint8)


def read_pair(photo: Photo, digests: Digests) -> tuple[NDArray[np.uint8], Mask]:
    """A photograph (H, W, 3) RGB and its mask (H, W), both verified; raises as `read_mask` does."""
    with opened_pair(photo, digests) as pair:
        return pair


@contextmanager
def opened_pair(photo: Photo, digests: Digests) -> Iterator[tuple[NDArray[np.uint8], Mask]]:
    """Like `read_pair`, for pixels that are needed only inside the block, as `opened_image`."""
    image_digest, digest = digests[photo.stem]
    assert photo.mask is not None  # Dataset.select has checked it
    with opened_image(photo.image, image_digest) as image:
        yield image, read_mask(photo.mask, digest)


def read_file(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises:
        DataError: if it isn't a regular file, or can't be read.
    """
    with _open(path) as file:
        return file.read()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes; raises as `read_file` does."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device might never end
            raise DataError(f"{printable(path)} is not a regular file", "Remove it")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{printable(path)} can't be read ({error.strerror})", "Check the file") from error


def _unusable(listing: Listing, stems: Iterable[str]) -> dict[str, Path]:
    """Files that seem to be the masks of photographs without one, by these stems: `shoe.jpg.png`, `shoe-mask.bmp`."""
    names = {stem.lower(): stem for stem in stems}
    files = [*listing.images, *(Path(one.file) for one in listing.passed_over if one.photograph)]
    keys = [(key.lower(), file) for file in files for key in (base_stem(normalized(file.stem)), _stem(file, "_mask"))]
    return {names[key]: file for key, file in keys if key in names}


def _not_read(mask: Path, stem: str) -> tuple[str, str]:
    if mask.suffix.lower() in MASK_SUFFIXES:
        what = f"{printable(mask.name)} is there, but isn't named {stem}_mask{mask.suffix}"
        return what, f"Rename it, or pair all masks with {CONVERT}"
    blurs = ": JPEG blurs edges" if mask.suffix.lower() in JPEG_SUFFIXES else ""
    remedy = f"Export it as PNG, or convert it with {CONVERT}"
    return f"{printable(mask.name)} is there, but a mask must be PNG or GIF{blurs}", remedy


def _changed(path: Path) -> DataError:
    return DataError(f"{printable(path)} has changed since it was first read", "Run the step again")


def _stem(path: Path, ending: str) -> str:
    """A file's stem without an ending such as `_mask`, in upper or lower case, its accents composed."""
    stem = normalized(path.stem)
    return stem[: len(stem) - len(ending)] if ending and stem.lower().endswith(ending) else stem


def _by_stem(paths: Iterable[Path], ending: str) -> tuple[dict[str, Path], list[Fault]]:
    """The first file of each stem; further ones are faults."""
    files: dict[str, Path] = {}
    faults = []
    for path in paths:
        first = files.setdefault(_stem(path, ending), path)
        if first != path:
            what = f"and {printable(path)} have one stem"
            faults.append(Fault(level="error", file=printable(first), what=what, remedy="Keep one of them"))
    return files, faults


def _name(images: dict[str, Path], masks: dict[str, Path]) -> tuple[dict[str, Photo], list[Fault]]:
    """The photographs by stem, sorted; files that aren't named `<object>_<view>` are faults."""
    photos, faults = {}, []
    for stem, path in sorted(images.items()):
        name, separator, view = stem.rpartition("_")
        if name and separator and view:
            photos[stem] = Photo(stem, name, view, path, masks.get(stem))
        else:
            what, remedy = "isn't named <object>_<view>", "Rename it, such as car1_01.jpg"
            faults.append(Fault(level="error", file=printable(path), what=what, remedy=remedy))
    return photos, faults


def _bad_names(passed_over: Iterable[PassedOver]) -> list[Fault]:
    bad = [one for one in passed_over if one.reason in BAD_NAMES]
    return [Fault(level="error", file=one.file, what=bad_name(one.reason), remedy="Rename it") for one in bad]
