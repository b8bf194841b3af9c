"""What a dataset's photographs and masks are known by, and the faults for which no step takes them.

A step begins by taking these digests, so that what `check` calls an error of a mask is refused by every step.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from backdrop.common import storage
from backdrop.common.errors import DataError
from backdrop.common.threads import in_threads
from backdrop.data.dataset import Digests, Fault, Photo, file_digest, read_file, read_mask_file
from backdrop.data.formats import examine, shape_of
from backdrop.data.listing import printable
from backdrop.data.mask_files import MaskFile
from backdrop.data.masks import mask_digest


def content_digests(photos: Iterable[Photo]) -> Digests:
    """Each photograph's digests by stem: sha256 of its file, and of its mask's pixels (empty if it has no mask).

    Raises:
        DataError: as `measure`.
    """
    chosen = list(photos)
    measured = in_threads(measure, chosen, "reading photographs", lasting=False)
    return {photo.stem: digests for photo, (digests, _) in zip(chosen, measured, strict=True)}


def digest_if_readable(path: Path) -> str:
    """Like `file_digest`, but empty if the file can't be read, which is reported when its pixels are needed."""
    try:
        return file_digest(path)
    except DataError:
        return ""


def dataset_digest(digests: Digests) -> str:
    """`sha256:…` over the sorted stems and the digests of their files; a fold plan names it."""
    lines = [f"{stem} {image} {mask}\n" for stem, (image, mask) in sorted(digests.items())]
    return f"sha256:{storage.sha256(''.join(lines).encode())}"


def measure(photo: Photo) -> tuple[tuple[str, str], int]:
    """A photograph's digests, and its mask's area in pixels (empty and 0 if it has none).

    Raises:
        DataError: if the photograph's header can't be read, or the mask has one of `mask_faults`.
    """
    data = read_file(photo.image)
    examine(data, printable(photo.image))
    if photo.mask is None:
        return (storage.sha256(data), ""), 0
    file = read_mask_file(photo.mask)
    for fault in mask_faults(photo.mask, file, shape_of(data)):
        raise fault.error()
    assert file.mask is not None
    return (storage.sha256(data), mask_digest(file.mask)), int(np.count_nonzero(file.mask))


def mask_faults(path: Path, file: MaskFile, photo: tuple[int, int] | None) -> list[Fault]:
    """Why a mask file can't be the mask of its photograph.

    Args:
        path: the mask's.
        file: what is in it.
        photo: the photograph's height and width, if known.
    """
    faults = []
    if photo and (what := wrong_size(file.content.shape, photo)):
        faults.append((what, "Export both at one size (mind an EXIF rotation of the photograph)"))
    if file.mask is None:
        faults.append((file.trouble, file.remedy))
    elif file.mask.all() or not file.mask.any():
        faults.append((f"is {'full' if file.mask.all() else 'empty'}", "Draw the mask again or remove the pair"))
    return [Fault(level="error", file=printable(path), what=what, remedy=remedy) for what, remedy in faults]


def wrong_size(mask: tuple[int, ...], photo: tuple[int, ...]) -> str:
    """What is wrong with a mask of this shape (H, W, ...) if its photograph has another; empty if it fits."""
    (height, width), (rows, columns) = mask[:2], photo[:2]
    return "" if mask[:2] == photo[:2] else f"is {width}x{height}, but its photograph is {columns}x{rows}"


def twins(photos: Iterable[tuple[Photo, str]]) -> Iterator[Fault]:
    """Photographs that are also another object's: one fold would train on one of them, and another be judged on it.

    Args:
        photos: each with sha256 of its file.
    """
    first: dict[str, Photo] = {}
    for photo, digest in photos:
        twin = first.setdefault(digest, photo)
        if twin.object != photo.object:
            what = f"is the same photograph as {printable(twin.image)}"
            yield Fault(level="error", file=printable(photo.image), what=what, remedy="Remove one of the two")
