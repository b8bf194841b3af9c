"""Predicts masks of many photographs in bounded memory; unreadable photographs are reported, not raised."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

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
from backdrop.data.dataset import CHUNK, file_digest, in_threads, opened_image
from backdrop.data.rle import encode_rle
from backdrop.inference.ensemble import EnsembleModel, Photograph
from backdrop.inference.member import WEIGHTS, Member
from backdrop.inference.predict import BATCH

PIXELS = 80_000_000  # of photographs whose sums are in memory at once; the sums take 640 MB
LARGE = PIXELS // BATCH  # pixels of a photograph that is a batch of its own
AHEAD = 2 * BATCH  # photographs that are decoded at once
MAX_CACHED = 2**31  # bytes of networks that stay in memory without a GPU; with one, a third of its free memory

Image = NDArray[np.uint8]
T = TypeVar("T")
U = TypeVar("U")


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
    usable = _usable(lazily(partial(_prepare, model), photos), failed)
    cutouts = [cutout for chunk in chunks(usable) for cutout in _cut_chunk(model, chunk)]
    return sorted([*cutouts, *failed], key=lambda cutout: cutout.image)


def lazily(prepare: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """`prepare` of every item, in order: a few at a time, in threads."""
    for start in range(0, len(items), AHEAD):
        yield from in_threads(prepare, items[start : start + AHEAD])


def chunks(items: Iterable[tuple[Photograph, T]], sums: int = 1) -> Iterator[list[tuple[Photograph, T]]]:
    """Groups of complete batches, each as large as fits in memory; a large photograph is alone.

    Args:
        items: photographs, each with what belongs to it.
        sums: how many sums each pixel has.
    """
    chunk: list[tuple[Photograph, T]] = []
    for batch in _batches(items, sums):
        if chunk and (len(chunk) % BATCH or _pixels([*chunk, *batch]) * sums > PIXELS):
            yield chunk
            chunk = []
        chunk = [*chunk, *batch]
    if chunk:
        yield chunk


def _batches(items: Iterable[tuple[Photograph, T]], sums: int) -> Iterator[list[tuple[Photograph, T]]]:
    """What networks see at a time: four photographs, or a large one."""
    batch: list[tuple[Photograph, T]] = []
    for item in items:
        large = item[0].pixels * sums > LARGE
        if batch and (large or len(batch) == BATCH):
            yield batch
            batch = []
        batch.append(item)
        if large:
            yield batch
            batch = []
    if batch:
        yield batch


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


def _prepare(model: EnsembleModel, photo: Path) -> tuple[str, Photograph | str]:
    """A photograph's name, and what the networks need of it, or the reason why it can't be used."""
    try:
        with opened_image(photo) as image:
            return photo.name, _misfit(model, image) or model.prepare(image)
    except DataError as error:
        return photo.name, error.what.removeprefix(f"{photo} ")


def _usable(photos: Iterable[tuple[str, Photograph | str]], failed: list[Cutout]) -> Iterator[tuple[Photograph, str]]:
    """The usable photographs with their names; the others are added to `failed`."""
    for name, photo in photos:
        if isinstance(photo, str):
            failed.append(Cutout(image=name, failure=photo))
        else:
            yield photo, name


def _misfit(model: EnsembleModel, image: Image) -> str:
    """The reason why a photograph (H, W, 3) doesn't fit a recipe's input; empty if it fits."""
    height, width = image.shape[:2]
    for recipe in (member.recipe for member in model.members):
        if recipe.input.fit != "stretch" and (height > recipe.input.height or width > recipe.input.width):
            return f"is {width}x{height} and doesn't fit into input.size {recipe.input.size} of recipe {recipe.name}"
    return ""


def _pixels(items: Sequence[tuple[Photograph, object]]) -> int:
    return sum(photo.pixels for photo, _ in items)


def _cut_chunk(model: EnsembleModel, chunk: Sequence[tuple[Photograph, str]]) -> Iterator[Cutout]:
    outcomes = model.outcomes([photo for photo, _ in chunk])
    for (photo, name), outcome in zip(chunk, outcomes, strict=True):
        view = Path(name).stem.rpartition("_")[2]
        rle = encode_rle(model.cut(outcome, view))
        yield Cutout(image=name, height=photo.height, width=photo.width, rle=rle)
