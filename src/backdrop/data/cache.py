"""Caches decoded photographs and masks at a network's input size, in files that are mapped into memory.

A file ends in the sha256 of its name and pixels. Each process verifies a file once, before it first trains on it.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common import storage
from backdrop.common.errors import StorageError
from backdrop.common.progress import log
from backdrop.common.threads import in_threads
from backdrop.common.words import count
from backdrop.config import Input
from backdrop.data.dataset import Digests, Photo, opened_image, read_levels
from backdrop.data.preprocessing import to_input

FORMAT = 4
DIGEST = 32  # bytes of a sha256
SHARE = 0.5  # of the free space that a cache takes without being asked to

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class DecodedCache:
    """Photographs (H, W, 3) RGB and soft masks (H, W), 0..255, at the network's input size.

    With `folder`, each is decoded once and kept there in a file named by the digests of image and mask, so that folds,
    recipes and datasets share it; without, each is decoded whenever it is wanted. The pixels are the same.
    """

    digests: Digests
    spec: Input
    folder: Path | None = None

    def __call__(self, photo: Photo) -> Pair:
        """A photograph and its mask.

        Raises:
            DataError: if a file is missing, no image, or not the one that was expected.
        """
        return self._kept(photo) or self._decode(photo)

    def image(self, photo: Photo) -> NDArray[np.uint8]:
        """Only the photograph; raises as a call does."""
        kept = self._kept(photo)
        return kept[0] if kept else self._decode_image(photo)

    def prepare(self, photos: Sequence[Photo]) -> None:
        """Decodes photographs that are missing from the cache or damaged, with a progress bar.

        Raises:
            DataError: as above.
            StorageError: if there is no room, or the folder can't be written.
        """
        if not self.folder:
            return
        there = [photo for photo in photos if self._path(photo).is_file()]
        sound = in_threads(self._is_sound, there, "verifying decoded photographs", lasting=False)
        damaged = [photo for photo, is_sound in zip(there, sound, strict=True) if not is_sound]
        if damaged:
            others = f" and {count(len(damaged) - 1, 'other')}" if len(damaged) > 1 else ""
            log(f"{self._path(damaged[0])} ({damaged[0].stem}){others} in the cache changed; decoding again")
        missing = [photo for photo in photos if not self._path(photo).is_file()]
        if missing or damaged:
            with storage.disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            in_threads(self._keep, [*missing, *damaged], "decoding photographs")

    def missing_bytes(self, photos: Sequence[Photo]) -> int:
        """The bytes that `prepare` would write."""
        return sum(not self._path(photo).is_file() for photo in photos) * self.spec.height * self.spec.width * 4

    def _decode(self, photo: Photo) -> Pair:
        levels = read_levels(photo, self.digests[photo.stem][1])
        return self._decode_image(photo), to_input(levels, self.spec)

    def _decode_image(self, photo: Photo) -> NDArray[np.uint8]:
        with opened_image(photo.image, self.digests[photo.stem][0]) as image:
            return to_input(image, self.spec)

    def _path(self, photo: Photo) -> Path:
        assert self.folder is not None
        return self.folder / f"{storage.sha256(''.join(self.digests[photo.stem]).encode())}.pixels"

    def _kept(self, photo: Photo) -> Pair | None:
        """What a file holds, first the photograph, then the mask; None if there is no file, or it isn't whole."""
        if not self.folder:
            return None
        height, width = self.spec.height, self.spec.width
        pixels = height * width
        try:
            both = self._map(photo)[:-DIGEST]
            return both[: 3 * pixels].reshape(height, width, 3), both[3 * pixels :].reshape(height, width)
        except (OSError, ValueError):
            return None

    def _is_sound(self, photo: Photo) -> bool:
        """Whether a file has the content that was written."""
        try:
            content = self._map(photo)
            return content[-DIGEST:].tobytes() == self._digest(photo, content[:-DIGEST])
        except (OSError, ValueError):
            return False

    def _map(self, photo: Photo) -> NDArray[np.uint8]:
        # Not `np.load`: it parses a header, at which Python 3.11 fails now and then if several threads do so.
        return np.memmap(self._path(photo), np.uint8, "r")

    def _digest(self, photo: Photo, pixels: NDArray[np.uint8]) -> bytes:
        digest = hashlib.sha256(self._path(photo).name.encode())
        digest.update(pixels.data)
        return digest.digest()

    def _keep(self, photo: Photo) -> None:
        image, mask = self._decode(photo)
        pixels = np.concatenate([image.ravel(), mask.ravel()])
        storage.write_bytes(self._path(photo), b"".join((pixels.data, self._digest(photo, pixels))))


def open_cache(photos: Sequence[Photo], digests: Digests, spec: Input, cache: str) -> DecodedCache:
    """Opens the cache that training reads its photographs from, and fills it.

    Args:
        photos: those that will be wanted.
        digests: sha256 of image and mask by stem.
        spec: the network's input.
        cache: `none`; `disk`; or `auto` and `device`: on disk if what is missing there takes no more than half of what
            is free.

    Raises:
        DataError: if a photograph can't be decoded.
        StorageError: with `disk`, if there is no room, or the cache can't be written.
    """
    plain = DecodedCache(digests, spec)
    if cache == "none":
        return plain
    kept = DecodedCache(digests, spec, storage.cache_folder() / "decoded" / _digest(spec))
    if cache != "disk" and kept.missing_bytes(photos) > SHARE * _free(kept.folder):
        log(f"Photographs are decoded again in each epoch: there is little room in {storage.cache_folder()}")
        return plain
    try:
        kept.prepare(photos)
    except StorageError as error:
        if cache == "disk":
            raise
        log(f"Photographs are decoded again in each epoch: {error}")
        return plain
    return kept


def _digest(spec: Input) -> str:
    return storage.sha256(json.dumps([FORMAT, cv2.__version__, spec.model_dump(mode="json")]).encode())[:16]


def _free(folder: Path | None) -> int:
    """Of the disk that a folder is on, or will be."""
    there = next(path for path in (folder or Path()).absolute().parents if path.is_dir())
    return shutil.disk_usage(there).free
