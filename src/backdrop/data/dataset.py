"""Photographs and masks in Kaggle's own Carvana layout, each file known by its digest.

`train/<object>_<view>.jpg` with `train_masks/<object>_<view>_mask.gif` (or `.png`). A Kaggle download works as it is.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage
from backdrop.common.errors import DataError
from backdrop.common.progress import progress
from backdrop.data.masks import Mask

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
MASK_SUFFIXES = {".gif", ".png"}
CHUNK = 32  # photographs in memory at once
# How whole JPEG, PNG and GIF files end, and in how many last bytes that is looked for (cameras append notes to
# a JPEG): decoders quietly fill in what a truncated file lacks.
ENDINGS = {b"\xff\xd8": (b"\xff\xd9", 4096), b"\x89P": (b"IEND", 16), b"GI": (b";", 1)}

# sha256 of image and mask, by stem.
Digests = dict[str, tuple[str, str]]
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Photo:
    """One photograph: its stem `<object>_<view>`, its file, and its mask's file if there is one."""

    stem: str
    object: str
    view: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Dataset:
    """A dataset's photographs by stem, in sorted order, and the masks that belong to none.

    `unlabeled` are those in `test`, which have no masks.
    """

    root: Path
    photos: dict[str, Photo]
    orphans: tuple[Path, ...]
    unlabeled: dict[str, Photo] = field(default_factory=dict)

    def select(self, stems: Iterable[str]) -> list[Photo]:
        """The photographs with these stems, each with a mask.

        Raises:
            DataError: if one isn't there or has no mask.
        """
        chosen = list(stems)
        for stem in chosen:
            if stem not in self.photos:
                raise DataError(f"{self.root} has no photograph {stem}", "Name the dataset that the plan was made from")
            if self.photos[stem].mask is None:
                raise DataError(f"{self.photos[stem].image} has no mask", "Add its mask or remove the photograph")
        return [self.photos[stem] for stem in chosen]


def open_dataset(data: str | Path) -> Dataset:
    """Lists a dataset (local folder or `s3://` prefix, which is copied into the cache once).

    Raises:
        DataError: if there is no `train` folder or it holds no photographs, or two files have one stem.
        StorageError: if the folder or the prefix can't be read.
    """
    root = storage.local_folder(data)
    images = _by_stem(root / "train", IMAGE_SUFFIXES, "")
    masks = _by_stem(root / "train_masks", MASK_SUFFIXES, "_mask")
    if not images:
        raise DataError(f"{data} has no photographs in train/", "Lay it out as train/*.jpg and train_masks/*_mask.gif")
    photos = {stem: _photo(stem, path, masks.get(stem)) for stem, path in sorted(images.items())}
    orphans = tuple(path for stem, path in sorted(masks.items()) if stem not in images)
    test = _by_stem(root / "test", IMAGE_SUFFIXES, "")
    unlabeled = {stem: _photo(stem, path, None) for stem, path in sorted(test.items())}
    return Dataset(root, photos, orphans, unlabeled)


def read_image(path: Path, digest: str | None = None) -> NDArray[np.uint8]:
    """A photograph as a viewer shows it (EXIF orientation applied): (H, W, 3) RGB, 0..255.

    Args:
        path: the file.
        digest: its sha256 as known from before, to be verified.

    Raises:
        DataError: if the file is missing, truncated, no image, or not the one that was expected.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR, digest), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_levels(path: Path, digest: str | None = None) -> NDArray[np.uint8]:
    """A mask file's gray levels (H, W), 0..255; raises as `read_image` does."""
    return _decode(path, cv2.IMREAD_GRAYSCALE, digest)


def read_mask(path: Path, digest: str | None = None) -> Mask:
    """A mask (H, W), whether its file says 0/255 or 0/1; raises as `read_image` does."""
    levels = read_levels(path, digest)
    mask: Mask = levels > levels.max() // 2
    return mask


def read_pair(photo: Photo, digests: Digests) -> tuple[NDArray[np.uint8], Mask]:
    """A photograph (H, W, 3) RGB and its mask (H, W), both verified; raises as `read_image` does."""
    image_digest, mask_digest = digests[photo.stem]
    assert photo.mask is not None  # Dataset.select saw to it
    return read_image(photo.image, image_digest), read_mask(photo.mask, mask_digest)


def read_chunks(photos: Sequence[Photo], digests: Digests) -> Iterator[list[tuple[NDArray[np.uint8], Mask]]]:
    """Pairs of all photographs, few enough at a time to be held in memory; raises as `read_image` does."""
    for start in range(0, len(photos), CHUNK):
        yield in_threads(lambda photo: read_pair(photo, digests), photos[start : start + CHUNK])


def file_digests(photos: Iterable[Photo]) -> Digests:
    """sha256 of image and mask (empty if there is none) of each photograph, by stem."""

    def one(photo: Photo) -> tuple[str, str]:
        return file_digest(photo.image), file_digest(photo.mask) if photo.mask else ""

    chosen = list(photos)
    return dict(zip([photo.stem for photo in chosen], in_threads(one, chosen), strict=True))


def dataset_digest(digests: Digests) -> str:
    """`sha256:…` over the sorted stems and the digests of their files: what a fold plan is made for."""
    lines = [f"{stem} {image} {mask}\n" for stem, (image, mask) in sorted(digests.items())]
    return f"sha256:{storage.sha256(''.join(lines).encode())}"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        DataError: if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", "Check the file") from error


def in_threads(function: Callable[[T], U], items: Sequence[T], label: str | None = None) -> list[U]:
    """`function` of every item, in order. Hashing and decoding leave Python's lock, so threads are enough.

    With a label, progress is shown.
    """
    with ThreadPoolExecutor() as pool, progress(label or "", len(items)) if label else nullcontext(_quiet) as advance:
        results = []
        for result in pool.map(function, items):
            results.append(result)
            advance("")
        return results


def _quiet(note: str) -> None:
    pass


def _by_stem(folder: Path, suffixes: set[str], ending: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = path.stem.removesuffix(ending)
        if stem in found:
            raise DataError(f"{found[stem]} and {path} have one stem", "Keep one of them")
        found[stem] = path
    return found


def _photo(stem: str, image: Path, mask: Path | None) -> Photo:
    name, separator, view = stem.rpartition("_")
    if not (name and separator and view):
        raise DataError(f"{image} isn't named <object>_<view>", "Rename it, such as car1_01.jpg")
    return Photo(stem, name, view, image, mask)


def _decode(path: Path, flags: int, digest: str | None) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", "Check the file") from error
    if digest is not None and storage.sha256(data) != digest:
        raise DataError(f"{path} has changed since the plan was verified", "Run the step again")
    ending, tail = ENDINGS.get(data[:2], (b"", 1))
    if ending not in data[-tail:]:
        raise DataError(f"{path} is truncated", "Copy it again from where it came")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        image = None
    if image is None:
        raise DataError(f"{path} is not a readable image", "Copy it again from where it came, or remove it")
    return image.astype(np.uint8, copy=False)
