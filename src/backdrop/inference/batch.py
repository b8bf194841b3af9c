"""Predicts masks of many photographs in bounded memory; unreadable photographs are reported, not raised."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.devices import device
from backdrop.common.errors import DataError
from backdrop.config.records import Record
from backdrop.data.dataset import CHUNK, file_digest, in_threads, read_image
from backdrop.data.rle import encode_rle
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.member import WEIGHTS, Member
from backdrop.inference.predict import BATCH

PIXELS = 2**27  # of photographs in memory at once; their sums take 1 GiB
MAX_CACHED = 2**31  # bytes of networks that stay in memory without a GPU; with one, a third of its free memory

Image = NDArray[np.uint8]


class Cutout(Record):
    """A photograph's mask, run-length encoded, at the photograph's size; or the reason for its `failure`."""

    image: str
    height: int = 0
    width: int = 0
    rle: str = ""
    failure: str = ""


CUTOUTS = TypeAdapter(list[Cutout])


@dataclass
class PredictionStore:
    """Finished masks of many photographs: one file in `folder` per chunk, so that a killed run can resume.

    A file's name is the digest of Backdrop's version, the ensemble, and the photographs' names and bytes, so results of
    another ensemble or of a changed photograph are never reused.
    """

    folder: Path
    parts: list[Path] = field(default_factory=list)

    def cut_out(self, model: EnsembleModel, photos: Sequence[Path]) -> Iterator[Cutout]:
        """The photographs' masks as from `cut_out`, chunk by chunk; finished chunks are read from files."""
        for start in range(0, len(photos), CHUNK):
            chunk = photos[start : start + CHUNK]
            part = self.folder / f"{_key(model, chunk)}.json"
            self.parts.append(part)
            yield from _read_part(part) or _cut_out_to(part, model, chunk)

    def clear(self) -> None:
        """Removes the files of this run."""
        for part in self.parts:
            part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it contains another run's files
            self.folder.rmdir()


class _CachedMember(Member):
    """A member whose network is loaded once and stays in memory."""

    @cached_property
    def _network(self) -> nn.Module:
        return super().network()

    def network(self) -> nn.Module:
        return self._network


def keep_networks(model: EnsembleModel) -> EnsembleModel:
    """The ensemble with as many networks in memory as fit; the others are loaded again for each chunk."""
    target = device()
    room = torch.cuda.mem_get_info(target)[0] // 3 if target.type == "cuda" else MAX_CACHED
    members = []
    for member in model.members:
        size = (member.folder / WEIGHTS).stat().st_size
        members.append(_CachedMember(member.folder, member.record, member.recipe) if size <= room else member)
        room -= size if size <= room else 0
    return replace(model, members=tuple(members))


def cut_out(model: EnsembleModel, photos: Sequence[Path]) -> list[Cutout]:
    """The photographs' masks, in order of their names.

    A photograph that can't be read, or doesn't fit a recipe's input, gets a failure instead of a mask. Chunk sizes
    don't change the result: networks always see the same batches.
    """
    failed: list[Cutout] = []
    cutouts = [cutout for chunk in _chunks(_readable(model, photos, failed)) for cutout in _cut_chunk(model, chunk)]
    return sorted([*cutouts, *failed], key=lambda cutout: cutout.image)


def _key(model: EnsembleModel, photos: Sequence[Path]) -> str:
    names = [photo.name for photo in photos]
    parts = [__version__, model.digest(), names, in_threads(_digest, photos)]
    return storage.sha256(json.dumps(parts).encode())


def _digest(photo: Path) -> str:
    try:
        return file_digest(photo)
    except DataError:  # reported later as a failure
        return ""


def _read_part(part: Path) -> list[Cutout]:
    """The results of an earlier run; none if the file is missing or damaged."""
    try:
        return CUTOUTS.validate_json(part.read_bytes())
    except (OSError, ValueError):
        return []


def _cut_out_to(part: Path, model: EnsembleModel, photos: Sequence[Path]) -> list[Cutout]:
    cutouts = cut_out(model, photos)
    storage.write_bytes(part, CUTOUTS.dump_json(cutouts))
    return cutouts


def _readable(model: EnsembleModel, photos: Sequence[Path], failed: list[Cutout]) -> Iterator[tuple[str, Image]]:
    """Name and pixels of each usable photograph; the others are added to `failed`."""
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        for photo, image in zip(batch, in_threads(_read, batch), strict=True):
            failure = image if isinstance(image, str) else _misfit(model, image)
            if isinstance(image, str) or failure:
                failed.append(Cutout(image=photo.name, failure=failure))
            else:
                yield photo.name, image


def _read(photo: Path) -> Image | str:
    """A photograph (H, W, 3) RGB, or the reason why it can't be read."""
    try:
        return read_image(photo)
    except DataError as error:
        return error.what.removeprefix(f"{photo} ")


def _misfit(model: EnsembleModel, image: Image) -> str:
    """The reason why a photograph (H, W, 3) doesn't fit a recipe's input; empty if it fits."""
    height, width = image.shape[:2]
    for recipe in (member.recipe for member in model.members):
        if recipe.input.fit != "stretch" and (height > recipe.input.height or width > recipe.input.width):
            return f"is {width}x{height} and doesn't fit into input.size {recipe.input.size} of recipe {recipe.name}"
    return ""


def _chunks(images: Iterator[tuple[str, Image]]) -> Iterator[list[tuple[str, Image]]]:
    """Groups of complete batches, each as large as fits in memory."""
    chunk: list[tuple[str, Image]] = []
    while batch := list(islice(images, BATCH)):
        if chunk and _pixels(chunk) + _pixels(batch) > PIXELS:
            yield chunk
            chunk = []
        chunk += batch
    if chunk:
        yield chunk


def _pixels(images: Sequence[tuple[str, Image]]) -> int:
    return sum(image.shape[0] * image.shape[1] for _, image in images)


def _cut_chunk(model: EnsembleModel, chunk: Sequence[tuple[str, Image]]) -> Iterator[Cutout]:
    means = model.means([image for _, image in chunk])
    for (name, image), mean in zip(chunk, means, strict=True):
        height, width = image.shape[:2]
        view = Path(name).stem.rpartition("_")[2]
        yield Cutout(image=name, height=height, width=width, rle=encode_rle(model.cut(mean, image, view)))
