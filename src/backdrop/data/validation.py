"""What can be wrong with photographs and masks, file by file and across objects."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backdrop.common.errors import DataError
from backdrop.config.records import Record
from backdrop.data import masks
from backdrop.data.dataset import Dataset, Photo, dataset_digest, file_digests, in_threads, read_image, read_levels

# Two photographs are near duplicates if their thumbnails differ by less than this, root mean square of 0..255.
NEAR = 2.0
THUMBNAIL = 32
ROWS = 512  # thumbnails compared with all others at a time

Thumbnail = NDArray[np.uint8]


class Fault(Record):
    """One thing wrong: an error stops a pipeline, a warning doesn't."""

    level: Literal["error", "warning"]
    file: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Inspection:
    """Faults, errors first; the sizes that occur, the most frequent first; the digest of all files."""

    faults: tuple[Fault, ...]
    sizes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class _Look:
    """What one photograph and its mask show."""

    photo: Photo
    faults: list[Fault]
    size: str | None
    thumbnail: Thumbnail | None


def inspect(dataset: Dataset) -> Inspection:
    """Reads every file of a dataset and says what is wrong."""
    photos = list(dataset.photos.values())
    digests = file_digests(photos)
    looks = in_threads(_look, photos, "check photographs")
    faults = [fault for look in looks for fault in look.faults]
    faults += _orphans(dataset)
    faults += _twins(photos, digests) + _odd_sizes(looks) + _missing_views(photos) + _near_duplicates(looks, digests)
    sizes = [size for size, _ in Counter(look.size for look in looks if look.size).most_common()]
    faults.sort(key=lambda fault: (fault.level, fault.file, fault.what))
    return Inspection(tuple(faults), tuple(sizes), dataset_digest(digests))


def _error(path: Path | None, what: str, remedy: str) -> Fault:
    return Fault(level="error", file=str(path), what=what, remedy=remedy)


def _warning(path: Path | None, what: str, remedy: str) -> Fault:
    return Fault(level="warning", file=str(path), what=what, remedy=remedy)


def _look(photo: Photo) -> _Look:
    try:
        image = read_image(photo.image)
    except DataError as error:
        return _Look(photo, [_told(photo.image, error), *_mask_faults(photo, None)], None, None)
    size = f"{image.shape[1]}x{image.shape[0]}"
    small = masks.resize(image, THUMBNAIL, THUMBNAIL)
    return _Look(photo, _mask_faults(photo, size), size, small)


def _mask_faults(photo: Photo, size: str | None) -> list[Fault]:
    """What is wrong with a photograph's mask; `size` is the photograph's, if it could be read."""
    if photo.mask is None:
        return [_error(photo.image, "has no mask", "Add its mask to train_masks/ or remove the photograph")]
    try:
        levels = read_levels(photo.mask)
    except DataError as error:
        return [_told(photo.mask, error)]
    faults = []
    found = f"{levels.shape[1]}x{levels.shape[0]}"
    if size is not None and found != size:
        remedy = "Export both at one size (mind an EXIF rotation of the photograph)"
        faults.append(_error(photo.mask, f"is {found}, but its photograph is {size}", remedy))
    values = np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
    if len(values) > 2:
        faults.append(
            _error(photo.mask, f"has {len(values)} gray levels, not two", "Save it without smoothing, as GIF or PNG")
        )
    elif len(values) == 1:
        kind = "full" if values[0] else "empty"
        faults.append(_error(photo.mask, f"is {kind}", "Draw the mask again or remove the pair"))
    return faults


def _orphans(dataset: Dataset) -> list[Fault]:
    remedy = "Add the photograph or remove it"
    return [_error(path, "is a mask without a photograph", remedy) for path in dataset.orphans]


def _told(path: Path, error: DataError) -> Fault:
    return _error(path, error.what.removeprefix(f"{path} "), error.remedy)


def _twins(photos: Sequence[Photo], digests: dict[str, tuple[str, str]]) -> list[Fault]:
    """The very same file under two objects: what one fold trains on, another would judge by."""
    first: dict[str, Photo] = {}
    faults = []
    for photo in photos:
        twin = first.setdefault(digests[photo.stem][0], photo)
        if twin.object != photo.object:
            faults.append(_error(photo.image, f"is the same photograph as {twin.image}", "Remove one of the two"))
    return faults


def _odd_sizes(looks: Iterable[_Look]) -> list[Fault]:
    sizes = Counter(look.size for look in looks if look.size)
    if len(sizes) < 2:
        return []
    usual = sizes.most_common(1)[0][0]
    odd = [look for look in looks if look.size not in (None, usual)]
    what = "differs in size from most, which are"
    return [_warning(look.photo.image, f"{what} {usual}", "A recipe that pads needs one size") for look in odd]


def _missing_views(photos: Iterable[Photo]) -> list[Fault]:
    by_object: dict[str, list[Photo]] = {}
    for photo in photos:
        by_object.setdefault(photo.object, []).append(photo)
    usual = Counter(len(group) for group in by_object.values()).most_common(1)[0][0]
    return [
        _warning(group[0].image, f"is of an object with {len(group)} views, most have {usual}", "Add the missing views")
        for group in by_object.values()
        if len(group) != usual
    ]


def _near_duplicates(looks: Sequence[_Look], digests: dict[str, tuple[str, str]]) -> list[Fault]:
    """Photographs of two objects that look alike, such as one file saved twice."""
    seen = [(look.photo, look.thumbnail) for look in looks if look.thumbnail is not None]
    pixels = np.array([thumbnail.ravel() for _, thumbnail in seen], np.float32)
    return [
        _warning(b.image, f"looks like {a.image}, another object's", "Look at both: is it one object under two names?")
        for a, b in _near_pairs([photo for photo, _ in seen], pixels)
        if digests[a.stem][0] != digests[b.stem][0]
    ]


def _near_pairs(photos: Sequence[Photo], pixels: NDArray[np.float32]) -> list[tuple[Photo, Photo]]:
    squares = (pixels**2).sum(axis=1)
    limit = NEAR**2 * pixels.shape[1] if len(pixels) else 0
    pairs = []
    for start in range(0, len(pixels), ROWS):
        rows = pixels[start : start + ROWS]
        distances = squares[start : start + ROWS, None] + squares[None] - 2 * rows @ pixels.T
        for i, j in np.argwhere(distances < limit):
            if start + i < j and photos[start + i].object != photos[j].object:
                pairs.append((photos[start + i], photos[j]))
    return pairs
