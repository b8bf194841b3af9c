"""Finds faults of photographs and masks, file by file and across objects."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage
from backdrop.common.errors import DataError
from backdrop.common.threads import in_threads
from backdrop.common.words import count
from backdrop.data import masks
from backdrop.data.dataset import Dataset, Digests, Fault, Photo, read_file
from backdrop.data.digests import dataset_digest, mask_faults, twins
from backdrop.data.formats import decode_levels, decode_photo, orientation_of, shape_of
from backdrop.data.listing import BAD_NAMES, names_doubt, printable
from backdrop.data.mask_files import interpret
from backdrop.data.orientation import turn

# Two photographs are near duplicates if their thumbnails differ by less than this, root mean square of 0..255.
NEAR = 2.0
# A mask is drawn on the stored photograph if its outline has this much more contrast there. Of 64 right masks of real
# cars none has more contrast turned, by any orientation, and upside down each has 1.27 times less or worse.
UNTURNED = 1.2
THUMBNAIL = 32
BLOCK = 8  # pixels of a thumbnail, a side of the squares whose means are compared first
ROWS, COLUMNS = 512, 2048  # thumbnails that are compared at a time

Thumbnail = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """Everything read from a photograph and its mask: faults, size `WxH`, mask area in pixels, and known digests."""

    photo: Photo
    faults: list[Fault]
    size: str | None
    thumbnail: Thumbnail | None
    digests: tuple[str, str]
    area: int


@dataclass(frozen=True)
class Inspection:
    """Faults, errors first; sizes, the most frequent first; the digest of all files; a look at each photograph."""

    faults: tuple[Fault, ...]
    sizes: tuple[str, ...]
    digest: str
    looks: tuple[Look, ...]


def inspect(dataset: Dataset) -> Inspection:
    """Reads every file of a dataset once, and finds its faults."""
    photos = list(dataset.photos.values())
    looks = in_threads(lambda photo: _look(dataset, photo), photos, "checking photographs")
    digests = {look.photo.stem: look.digests for look in looks}
    faults = [*dataset.faults, *(fault for look in looks for fault in look.faults)]
    faults += _orphans(dataset) + _lost(dataset) + _names(photos)
    faults += twins((look.photo, look.digests[0]) for look in looks if look.thumbnail is not None)
    faults += _odd_sizes(looks) + _missing_views(photos) + _near_duplicates(looks, digests)
    sizes = [size for size, _ in Counter(look.size for look in looks if look.size).most_common()]
    return Inspection(tuple(in_order(faults)), tuple(sizes), dataset_digest(digests), tuple(looks))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Errors first, then by file."""
    return sorted(faults, key=lambda fault: (fault.level, fault.file, fault.what))


def _error(path: Path, what: str, remedy: str) -> Fault:
    return Fault(level="error", file=printable(path), what=what, remedy=remedy)


def _warning(path: Path, what: str, remedy: str) -> Fault:
    return Fault(level="warning", file=printable(path), what=what, remedy=remedy)


def _fault(path: Path, error: DataError) -> Fault:
    return _error(path, error.what.removeprefix(f"{printable(path)} "), error.remedy)


def _look(dataset: Dataset, photo: Photo) -> Look:
    digest, shape, thumbnail, orientation, faults = "", None, None, 1, []
    try:
        data = read_file(photo.image)
        digest = storage.sha256(data)
        image = decode_photo(data, printable(photo.image), least=4 * THUMBNAIL)
        shape, thumbnail = shape_of(data), masks.resize(image, THUMBNAIL, THUMBNAIL)
        orientation = orientation_of(data)
    except DataError as error:
        faults.append(_fault(photo.image, error))
    size = shape and _size(shape)
    if photo.mask is None:
        return Look(photo, [*faults, dataset.missing_mask(photo)], size, thumbnail, (digest, ""), 0)
    try:
        data = read_file(photo.mask)
        file = interpret(decode_levels(data, printable(photo.mask)))
    except DataError as error:
        return Look(photo, [*faults, _fault(photo.mask, error)], size, thumbnail, (digest, ""), 0)
    wrong = mask_faults(photo.mask, file, shape)
    faults += wrong or [_warning(photo.mask, *note) for note in file.notes]
    if orientation != 1 and file.mask is not None and file.mask.shape == shape:
        faults += _turn_faults(photo.mask, image, file.mask, orientation)
    mask_digest = "" if file.mask is None else masks.mask_digest(file.mask)
    area = 0 if file.mask is None else int(np.count_nonzero(file.mask))
    return Look(photo, faults, size, thumbnail, (digest, mask_digest), area)


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _turn_faults(path: Path, image: NDArray[np.uint8], mask: masks.Mask, orientation: int) -> list[Fault]:
    """A warning if a mask seems to be drawn on its photograph as that is stored, which its size alone doesn't tell."""
    turned = np.ascontiguousarray(turn(mask, orientation))
    if turned.shape != mask.shape or _contrast(image, turned) <= UNTURNED * _contrast(image, mask):
        return []
    what = "fits its photograph as that is stored, not as EXIF turns it"
    return [_warning(path, what, "Look at both: draw the mask on the photograph as a viewer shows it, or turn it")]


def _contrast(image: NDArray[np.uint8], mask: masks.Mask) -> float:
    """The mean gradient of a photograph along a mask's outline; the photograph may be smaller."""
    product = (masks.resize(mask.astype(np.uint8) * 255, *image.shape[:2]) > 127).astype(np.uint8)
    outline = product > cv2.erode(product, np.ones((3, 3), np.uint8))
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = cv2.magnitude(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    return float(gradient[outline].mean()) if outline.any() else 0.0


def _orphans(dataset: Dataset) -> list[Fault]:
    remedy = "Add the photograph or remove it"
    return [_error(path, "is a mask without a photograph", remedy) for path in dataset.orphans]


def _lost(dataset: Dataset) -> list[Fault]:
    """Files that look like a photograph or a mask but aren't read, except in `test`, which training doesn't use."""
    test = f"{printable(dataset.root / 'test')}/"
    remedy = "Convert it (`backdrop import` does) or remove it"
    return [
        Fault(level="warning", file=one.file, what=f"is passed over ({one.reason})", remedy=remedy)
        for one in dataset.passed_over
        if one.photograph and one.reason not in BAD_NAMES and not one.file.startswith(test)
    ]


def _names(photos: Sequence[Photo]) -> list[Fault]:
    """Finds cameras' file names, which can be read as object and view although they don't contain them."""
    doubt = names_doubt((photo.object, photo.view) for photo in photos)
    if not doubt:
        return []
    first = photos[0]
    what = f"was read as object {first.object}, view {first.view}, and so {doubt}"
    remedy = "Name them <object>_<view>, or put each object's into a folder of its own and run `backdrop import`"
    return [_warning(first.image, what, remedy)]


def _odd_sizes(looks: Iterable[Look]) -> list[Fault]:
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
    usual = Counter(len(group) for group in by_object.values()).most_common(1)[0][0] if by_object else 0
    odd = [group for group in by_object.values() if len(group) != usual]
    what = "is of an object with {}, most have {}"
    remedy = "Add the missing views"
    return [_warning(group[0].image, what.format(count(len(group), "view"), usual), remedy) for group in odd]


def _near_duplicates(looks: Sequence[Look], digests: Digests) -> list[Fault]:
    """Finds photographs of two objects that look alike, such as one photograph saved twice.

    Each is named once, beside the first that it looks like.
    """
    seen = [(look.photo, look.thumbnail) for look in looks if look.thumbnail is not None]
    if not seen:
        return []
    photos = [photo for photo, _ in seen]
    first = _first_alike(
        np.array([thumbnail for _, thumbnail in seen]),
        [photo.object for photo in photos],
        [digests[photo.stem][0] for photo in photos],
    )
    what, remedy = "looks like {}, another object's", "Look at both: is it one object under two names?"
    return [
        _warning(photos[place].image, what.format(printable(photos[other].image)), remedy)
        for place, other in enumerate(first)
        if other < place
    ]


def _first_alike(thumbnails: Thumbnail, objects: Sequence[str], digests: Sequence[str]) -> list[int]:
    """For each thumbnail of (N, 32, 32, 3), the place of the first before it that is its near duplicate; or its own.

    Near duplicates are of two objects and of two digests. The means of blocks, scaled so that they are never farther
    apart than the pixels, rule out nearly all pairs. Sorted by the direction in which they differ most, each is
    compared only with those that follow within reach.
    """
    means = _block_means(thumbnails)
    order = np.argsort(means[:, 0], kind="stable")
    means, limit = means[order], NEAR**2 * thumbnails[0].size
    pixels = thumbnails.reshape(len(thumbnails), -1)
    names, contents = (np.unique(values, return_inverse=True)[1] for values in (objects, digests))
    first = np.arange(len(thumbnails))
    for start in range(0, len(means), ROWS):
        rows = slice(start, start + ROWS)
        stop = int(np.searchsorted(means[:, 0], means[rows][-1, 0] + math.sqrt(limit) + 1))
        for begin in range(start, stop, COLUMNS):
            columns = slice(begin, min(stop, begin + COLUMNS))
            possible = _squared_distances(means[rows], means[columns]) < limit + 1
            a, b = order[rows][possible.any(axis=1), None], order[columns][None, possible.any(axis=0)]
            near = _squared_distances(pixels[a[:, 0]], pixels[b[0]]) < limit
            near &= (names[a] != names[b]) & (contents[a] != contents[b])
            np.minimum.at(first, np.maximum(a, b)[near], np.minimum(a, b)[near])
    return [int(place) for place in first]


def _squared_distances(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Those (N, M) of vectors (N, D) and (M, D), exact if the vectors are whole numbers."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T)


def _block_means(thumbnails: Thumbnail) -> NDArray[np.float64]:
    """The means (N, 48) of thumbnails' blocks times a block's side, turned so that the first column differs most."""
    count, blocks = len(thumbnails), THUMBNAIL // BLOCK
    parts = thumbnails.reshape(count, blocks, BLOCK, blocks, BLOCK, 3)
    means = parts.sum(axis=(2, 4), dtype=np.int64).reshape(count, -1) / BLOCK
    means -= means.mean(axis=0)
    _, directions = np.linalg.eigh(means.T @ means)
    return np.asarray(means @ directions[:, ::-1])
