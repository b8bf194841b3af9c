"""Predicts masks of many photographs in bounded memory; unreadable photographs are reported, not raised."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
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
from backdrop.common.threads import in_threads
from backdrop.config.records import Record
from backdrop.data.dataset import CHUNK, file_digest, opened_image
from backdrop.data.digests import digest_if_readable
from backdrop.data.listing import printable
from backdrop.data.masks import Mask
from backdrop.data.photographs import Source
from backdrop.data.rle import encode_rle
from backdrop.inference.compose import Pictures
from backdrop.inference.ensemble import EnsembleModel, Outcome, Photograph
from backdrop.inference.member import WEIGHTS, Member
from backdrop.inference.predict import BATCH
from backdrop.inference.uncertainty import DiceRange

PIXELS = 80_000_000  # of photographs whose sums are in memory at once; the sums take 640 MB
LARGE = PIXELS // BATCH  # pixels of a photograph that is a batch of its own
AHEAD = 2 * BATCH  # photographs that are decoded at once
MAX_CACHED = 2**31  # bytes of networks that stay in memory without a GPU; with one, a third of its free memory

Image = NDArray[np.uint8]
Finish = Callable[[Source, Outcome, Mask], "Cutout"]
T = TypeVar("T")
U = TypeVar("U")


class Cutout(Record):
    """A photograph's mask, run-length encoded, at the photograph's size; or the reason for its `failure`.

    If pictures are drawn, `picture` is the picture's path in the store, and `digest` its sha256; `rle` is empty then.
    `empty` says that no pixel is product. `dice` is the Dice that the mask probably has, and its interval; None if the
    model can't say.
    """

    image: str
    height: int = 0
    width: int = 0
    rle: str = ""
    picture: str = ""
    digest: str = ""
    failure: str = ""
    empty: bool = False
    dice: DiceRange | None = None


CUTOUTS = TypeAdapter(list[Cutout])


@dataclass
class PredictionStore:
    """Finished masks of many photographs: one file in `folder` per chunk, so that a killed run can resume.

    A file's name is the digest of Backdrop's version, the ensemble, how its networks compute, the pictures' options,
    and the photographs' names and bytes, so results of another ensemble, of another kind of device or of a changed
    photograph are never reused. Pictures are in a folder
    beside the file, which is written after them.
    """

    folder: Path
    pictures: Pictures | None = None
    parts: list[Path] = field(default_factory=list)

    def cut_out(self, model: EnsembleModel, photos: Sequence[Source]) -> Iterator[Cutout]:
        """The photographs' masks or pictures, in order, chunk by chunk; finished chunks are read from files."""
        for start in range(0, len(photos), CHUNK):
            chunk = in_threads(_identify, photos[start : start + CHUNK])
            part = self.folder / f"{_key(model, chunk, self.pictures)}.json"
            self.parts.append(part)
            yield from self._read(part) or self._cut_out_to(part, model, chunk)

    def clear(self) -> None:
        """Removes the files of this run."""
        for part in self.parts:
            part.unlink(missing_ok=True)
            shutil.rmtree(part.with_suffix(""), ignore_errors=True)
        with contextlib.suppress(OSError):  # it contains another run's files
            self.folder.rmdir()

    def _read(self, part: Path) -> list[Cutout]:
        """The results of an earlier run; none if a file is missing or damaged."""
        try:
            cutouts = CUTOUTS.validate_json(part.read_bytes())
            whole = all(file_digest(self.folder / one.picture) == one.digest for one in cutouts if one.picture)
        except (OSError, ValueError, DataError):
            return []
        return cutouts if whole else []

    def _cut_out_to(self, part: Path, model: EnsembleModel, photos: Sequence[Source]) -> list[Cutout]:
        finish = encode if self.pictures is None else partial(self._draw, self.pictures, part.stem)
        cutouts = cut_out(model, photos, finish)
        storage.write_bytes(part, CUTOUTS.dump_json(cutouts))
        return cutouts

    def _draw(self, pictures: Pictures, chunk: str, source: Source, outcome: Outcome, mask: Mask) -> Cutout:
        """Writes a photograph's picture. It is decoded again, because those of a chunk wouldn't fit in memory."""
        height, width = mask.shape
        with opened_image(source.path, source.digest) as image:
            assert outcome.probability is not None
            data = pictures.draw(image, outcome.probability, mask)
        path = f"{chunk}/{PurePosixPath(source.name).with_suffix(pictures.suffix)}"
        with storage.disk_errors(self.folder / path):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)
        return Cutout(image=source.name, height=height, width=width, picture=path, digest=storage.sha256(data))


class _CachedMember(Member):
    """A member whose network is loaded once and stays in memory."""

    is_in_memory = True

    @cached_property
    def _network(self) -> nn.Module:
        return super().network()

    def network(self) -> nn.Module:
        return self._network


def keep_networks(model: EnsembleModel) -> EnsembleModel:
    """The ensemble with as many networks in memory as fit; the others are loaded again for each chunk.

    Those that see a photograph first are kept before the others, which see only doubtful photographs.
    """
    target = device()
    room = torch.cuda.mem_get_info(target)[0] // 3 if target.type == "cuda" else MAX_CACHED
    first = {member.name for member in model.first()}
    members = {member.name: member for member in model.members}
    for member in sorted(model.members, key=lambda member: member.name not in first):
        size = (member.folder / WEIGHTS).stat().st_size
        if size <= room:
            members[member.name] = _CachedMember(member.folder, member.record, member.recipe)
            room -= size
    return replace(model, members=tuple(members.values()))


def encode(source: Source, outcome: Outcome, mask: Mask) -> Cutout:  # noqa: ARG001  # a `Finish`
    """A photograph's mask as run lengths."""
    height, width = mask.shape
    return Cutout(image=source.name, height=height, width=width, rle=encode_rle(mask))


def cut_out(model: EnsembleModel, photos: Sequence[Source], finish: Finish = encode) -> list[Cutout]:
    """The photographs' masks, in order of their names: the next are decoded and predicted while some are finished.

    A photograph that can't be read, or doesn't fit a recipe's input, gets a failure instead of a mask. Chunk sizes
    don't change the result: networks always see the same batches.

    Args:
        model: the ensemble.
        photos: the photographs.
        finish: makes a record of a photograph's outcome and mask. Unless it is `encode`, it gets the probability, too.
    """
    failed: list[Cutout] = []

    def report(source: Source, error: DataError) -> None:
        failed.append(Cutout(image=source.name, failure=_reason(source, error)))

    prepared = usable(partial(_prepare, model), photos, report)
    asked = finish is not encode or model.predicted_dice is not None
    predicted = _predict(model, ahead(chunks(model, prepared)), with_probability=asked)
    cutouts = [
        _finish(model, source, outcome, finish)
        for pairs in ahead(predicted, lambda pairs: pairs[0][1].photo.pixels > LARGE)
        for source, outcome in pairs
    ]
    return sorted([*cutouts, *failed], key=lambda cutout: cutout.image)


def outcomes(model: EnsembleModel, items: Iterable[tuple[Photograph, T]]) -> Iterator[tuple[T, Outcome]]:
    """What belongs to each photograph, with its outcome and probability; the next are decoded meanwhile."""
    for chunk in ahead(chunks(model, items)):
        found = model.outcomes([photo for photo, _ in chunk], with_probability=True)
        yield from zip((item for _, item in chunk), found, strict=True)


def usable(
    prepare: Callable[[T], Photograph], items: Sequence[T], report: Callable[[T, DataError], None]
) -> Iterator[tuple[Photograph, T]]:
    """Prepares photographs lazily, and passes over those that can't be used.

    Args:
        prepare: returns what the networks need of a photograph, or raises a DataError.
        items: the photographs.
        report: is told of each that can't be used, and why.
    """

    def attempt(item: T) -> tuple[T, Photograph | DataError]:
        try:
            return item, prepare(item)
        except DataError as error:
            return item, error.with_traceback(None)  # it would keep the pixels

    for item, photo in lazily(attempt, items):
        if isinstance(photo, DataError):
            report(item, photo)
        else:
            yield photo, item


def ahead(items: Iterator[T], is_large: Callable[[T], bool] = lambda _: False) -> Iterator[T]:
    """The same items: a thread makes the next one while one is used, unless this one is so large that two don't fit."""
    with ThreadPoolExecutor(1) as thread:
        item = next(items, None)
        while item is not None:
            following = None if is_large(item) else thread.submit(next, items, None)
            yield item
            item = following.result() if following else next(items, None)


def lazily(prepare: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """`prepare` of every item, in order: a few at a time, in threads."""
    for start in range(0, len(items), AHEAD):
        yield from in_threads(prepare, items[start : start + AHEAD])


def chunks(
    model: EnsembleModel, items: Iterable[tuple[Photograph, T]], sums: int = 1
) -> Iterator[list[tuple[Photograph, T]]]:
    """What is predicted at a time: a batch if the ensemble's networks stay in memory, else as many as fit.

    A large photograph is alone.

    Args:
        model: the ensemble.
        items: photographs, each with what belongs to it.
        sums: how many sums each pixel has.
    """
    chunk: list[tuple[Photograph, T]] = []
    for batch in _batches(items, sums):
        is_whole = model.is_in_memory or len(chunk) % BATCH or _pixels([*chunk, *batch]) * sums > PIXELS
        if chunk and (is_whole or _is_large(batch[0], sums)):
            yield chunk
            chunk = []
        chunk = [*chunk, *batch]
    if chunk:
        yield chunk


def _batches(items: Iterable[tuple[Photograph, T]], sums: int) -> Iterator[list[tuple[Photograph, T]]]:
    """What networks see at a time: four photographs, or a large one."""
    batch: list[tuple[Photograph, T]] = []
    for item in items:
        if batch and (_is_large(item, sums) or len(batch) == BATCH):
            yield batch
            batch = []
        batch.append(item)
        if _is_large(item, sums):
            yield batch
            batch = []
    if batch:
        yield batch


def _is_large(item: tuple[Photograph, object], sums: int) -> bool:
    return item[0].pixels * sums > LARGE


def _key(model: EnsembleModel, photos: Sequence[Source], pictures: Pictures | None) -> str:
    names, digests = zip(*((photo.name, photo.digest) for photo in photos), strict=True)
    told = model.predicted_dice and model.predicted_dice.model_dump_json()
    parts = [__version__, model.digest(), told, model.computation(), names, digests, pictures and pictures.digest()]
    return storage.sha256(json.dumps(parts).encode())


def _identify(photo: Source) -> Source:
    return replace(photo, digest=digest_if_readable(photo.path))


def _prepare(model: EnsembleModel, source: Source) -> Photograph:
    with opened_image(source.path, source.digest) as image:
        _require_fit(model, image)
        return model.prepare(image)


def _reason(source: Source, error: DataError) -> str:
    """What is wrong with a photograph, and the remedy, without its name."""
    return str(error).removeprefix(f"{printable(source.path)} ")


def _require_fit(model: EnsembleModel, image: Image) -> None:
    """Makes sure that a photograph (H, W, 3) fits each recipe's input; the error doesn't name it."""
    height, width = image.shape[:2]
    for recipe in (member.recipe for member in model.members):
        if recipe.input.fit != "stretch" and (height > recipe.input.height or width > recipe.input.width):
            size = f"input.size {recipe.input.size} of recipe {recipe.name}"
            raise DataError(f"is {width}x{height} and doesn't fit into {size}", "Scale it down")


def _pixels(items: Sequence[tuple[Photograph, object]]) -> int:
    return sum(photo.pixels for photo, _ in items)


def _predict(
    model: EnsembleModel, chunks: Iterator[list[tuple[Photograph, Source]]], with_probability: bool
) -> Iterator[list[tuple[Source, Outcome]]]:
    for chunk in chunks:
        outcomes = model.outcomes([photo for photo, _ in chunk], with_probability)
        yield [(source, outcome) for (_, source), outcome in zip(chunk, outcomes, strict=True)]


def _finish(model: EnsembleModel, source: Source, outcome: Outcome, finish: Finish) -> Cutout:
    view = PurePosixPath(source.name).stem.rpartition("_")[2]
    try:
        mask = model.cut(outcome, view)
        known = {"empty": not mask.any(), "dice": model.predict_dice(outcome, mask)}
        return finish(source, outcome, mask).model_copy(update=known)
    except DataError as error:
        return Cutout(image=source.name, failure=_reason(source, error))
