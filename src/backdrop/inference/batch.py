"""Many photographs in, their masks out: in bounded memory, and what can't be read is told, not raised."""

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

PIXELS = 2**27  # of photographs in memory at once: their sums take 1 GiB
KEPT = 2**31  # bytes of networks that stay in memory where there is no GPU; of a GPU's free memory a third is used

Image = NDArray[np.uint8]


class Cutout(Record):
    """A photograph's mask, run-length encoded, at its own size; or, in `failure`, why there is none."""

    image: str
    height: int = 0
    width: int = 0
    rle: str = ""
    failure: str = ""


CUTOUTS = TypeAdapter(list[Cutout])


@dataclass
class PredictionStore:
    """What is done of many photographs: a file in `folder` for each few, so that a killed run goes on.

    A file's name is the digest of Backdrop's version, the ensemble, and these photographs' names and bytes: a file of
    another ensemble, or of a photograph that has changed since, is never taken for theirs.
    """

    folder: Path
    parts: list[Path] = field(default_factory=list)

    def cut_out(self, model: EnsembleModel, photos: Sequence[Path]) -> Iterator[Cutout]:
        """The photographs' masks as `cut_out` gives them, a few photographs at a time; those of before are read."""
        for start in range(0, len(photos), CHUNK):
            few = photos[start : start + CHUNK]
            part = self.folder / f"{_key(model, few)}.json"
            self.parts.append(part)
            yield from _known(part) or _cut_out_to(part, model, few)

    def clear(self) -> None:
        """Forgets what it gave."""
        for part in self.parts:
            part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it still holds what another run has done
            self.folder.rmdir()


class _Kept(Member):
    """A member whose network is read once and stays where it is put."""

    @cached_property
    def _network(self) -> nn.Module:
        return super().network()

    def network(self) -> nn.Module:
        return self._network


def keep_networks(model: EnsembleModel) -> EnsembleModel:
    """The ensemble with as many networks as fit kept in memory; the others are read anew for each few photographs."""
    where = device()
    room = torch.cuda.mem_get_info(where)[0] // 3 if where.type == "cuda" else KEPT
    members = []
    for member in model.members:
        size = (member.folder / WEIGHTS).stat().st_size
        members.append(_Kept(member.folder, member.record, member.recipe) if size <= room else member)
        room -= size if size <= room else 0
    return replace(model, members=tuple(members))


def cut_out(model: EnsembleModel, photos: Sequence[Path]) -> list[Cutout]:
    """The photographs' masks, in order of their names.

    A photograph that can't be read, or doesn't fit a recipe's input, has a failure instead. How many fit into memory
    at once changes nothing: networks always see the same ones together.
    """
    failed: list[Cutout] = []
    found = [cutout for chunk in _chunks(_readable(model, photos, failed)) for cutout in _cut_chunk(model, chunk)]
    return sorted([*found, *failed], key=lambda cutout: cutout.image)


def _key(model: EnsembleModel, photos: Sequence[Path]) -> str:
    names = [photo.name for photo in photos]
    parts = [__version__, model.digest(), names, in_threads(_digest, photos)]
    return storage.sha256(json.dumps(parts).encode())


def _digest(photo: Path) -> str:
    try:
        return file_digest(photo)
    except DataError:  # it will have a failure
        return ""


def _known(part: Path) -> list[Cutout]:
    """What an earlier run wrote there; none if it didn't, or the disk has lost a part of it."""
    try:
        return CUTOUTS.validate_json(part.read_bytes())
    except (OSError, ValueError):
        return []


def _cut_out_to(part: Path, model: EnsembleModel, photos: Sequence[Path]) -> list[Cutout]:
    found = cut_out(model, photos)
    storage.write_bytes(part, CUTOUTS.dump_json(found))
    return found


def _readable(model: EnsembleModel, photos: Sequence[Path], failed: list[Cutout]) -> Iterator[tuple[str, Image]]:
    """Name and pixels of each photograph that can be used; the others are put to the failed ones."""
    for start in range(0, len(photos), BATCH):
        few = photos[start : start + BATCH]
        for photo, image in zip(few, in_threads(_read, few), strict=True):
            failure = image if isinstance(image, str) else _misfit(model, image)
            if isinstance(image, str) or failure:
                failed.append(Cutout(image=photo.name, failure=failure))
            else:
                yield photo.name, image


def _read(photo: Path) -> Image | str:
    """A photograph (H, W, 3) RGB, or what is wrong with it."""
    try:
        return read_image(photo)
    except DataError as error:
        return error.what.removeprefix(f"{photo} ")


def _misfit(model: EnsembleModel, image: Image) -> str:
    """Which recipe's input a photograph (H, W, 3) is too large for, if any."""
    height, width = image.shape[:2]
    for recipe in (member.recipe for member in model.members):
        if recipe.input.fit != "stretch" and (height > recipe.input.height or width > recipe.input.width):
            return f"is {width}x{height} and doesn't fit into the {recipe.input.size} of recipe {recipe.name}"
    return ""


def _chunks(images: Iterator[tuple[str, Image]]) -> Iterator[list[tuple[str, Image]]]:
    """Whole batches of them, as many as fit into memory at once."""
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
