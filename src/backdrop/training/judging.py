"""Judges a network by the photographs that it doesn't train on, at their own size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from backdrop.common.devices import precision_of
from backdrop.common.progress import progress
from backdrop.common.threads import in_threads
from backdrop.config import Input, Recipe
from backdrop.data.cache import DecodedCache, open_cache
from backdrop.data.dataset import CHUNK, Dataset, Digests, Photo, read_mask
from backdrop.data.folds import Row
from backdrop.data.masks import Overlap, PackedMask
from backdrop.evaluation.metrics import object_means
from backdrop.inference.batch import PIXELS
from backdrop.inference.ensemble import Photograph, blocks
from backdrop.inference.mean import Mean
from backdrop.inference.predict import BATCH, answers, batches
from backdrop.training.distributed import ALONE, Distributed

MAX_KEPT = 2**30  # bytes of masks that stay in memory between two epochs


@dataclass(frozen=True)
class LeftOut:
    """The photographs of the fold that is left out, which validate a network; all processes share the work."""

    dataset: Dataset
    rows: Sequence[Row]
    digests: Digests
    recipe: Recipe
    distributed: Distributed = ALONE

    def __call__(self, candidate: nn.Module) -> float:
        """The network's out-of-fold Dice."""
        return self.mean(self.dices(candidate))

    def dices(self, candidate: nn.Module, lasting: bool = False) -> list[float]:
        """The Dice of each photograph; `lasting` keeps the progress line on the screen."""
        shard = self.distributed.shard(self.rows)
        with progress("judging photographs", len(shard), lasting and self.distributed.is_main) as advance:
            scores = dices(candidate, self._labeled, self.recipe, advance)
        return self.distributed.gather(scores)

    def mean(self, scores: Sequence[float]) -> float:
        """The mean over objects, so that each counts the same however many views it has."""
        means = object_means((row.object, value) for row, value in zip(self.rows, scores, strict=True))
        return sum(means.values()) / len(means)

    @cached_property
    def _labeled(self) -> "Labeled":
        """This process's share of them."""
        with self.distributed.main_process_first():  # it decodes; the others reuse its cache
            photos = self.dataset.select(row.image for row in self.distributed.shard(self.rows))
            return Labeled(photos, open_cache(photos, self.digests, self.recipe.input, self.recipe.loading.cache))


class Labeled:
    """Photographs that are judged again and again.

    Each is decoded once at the network's input size if there is room on the disk, and its mask is read once, and kept
    in an eighth of its memory, as long as all take at most 1 GB.
    """

    def __init__(self, photos: Sequence[Photo], decoded: DecodedCache) -> None:
        self.photos = photos
        self._decoded = decoded
        self._masks: dict[str, PackedMask] = {}
        self._kept = 0

    def inputs(self, photos: Sequence[Photo]) -> list[NDArray[np.uint8]]:
        """Each photograph (h, w, 3) as the network's input.

        Raises:
            DataError: if it can't be read, has changed, or doesn't fit the recipe's input.
        """
        return in_threads(self._decoded.image, photos)

    def masks(self, photos: Sequence[Photo]) -> Iterator[PackedMask]:
        """Each photograph's mask, read in threads: as many at a time as have `PIXELS` pixels if they are like the last.

        Raises:
            DataError: if it can't be read or has changed.
        """
        start, count = 0, 1
        while start < len(photos):
            group = photos[start : start + count]
            for photo, mask in zip(group, in_threads(self._mask, group), strict=True):
                height, width = mask.shape
                count = max(1, PIXELS // (height * width))
                if photo.stem not in self._masks and self._kept + mask.bits.nbytes <= MAX_KEPT:
                    self._masks[photo.stem] = mask
                    self._kept += mask.bits.nbytes
                yield mask
            start += len(group)

    def _mask(self, photo: Photo) -> PackedMask:
        kept = self._masks.get(photo.stem)
        assert photo.mask is not None  # Dataset.select has checked it
        return kept or PackedMask.of(read_mask(photo.mask, self._decoded.digests[photo.stem][1]))


def dices(
    network: nn.Module, labeled: Labeled, recipe: Recipe, advance: Callable[[], None] = lambda: None
) -> list[float]:
    """Dice of each photograph at its own size, in memory that is bounded for photographs of any number and size.

    Args:
        network: in evaluation mode.
        labeled: the photographs.
        recipe: the network's recipe.
        advance: called for each photograph.

    Raises:
        DataError: if a photograph or mask can't be read, has changed, or doesn't fit the recipe's input.
    """
    scores: list[float] = []
    count, target = _chunk(recipe.input), next(network.parameters()).device
    align_corners, precision = recipe.legacy.output_align_corners, precision_of(recipe.compute.precision, target)
    for start in range(0, len(labeled.photos), count):
        chunk = labeled.photos[start : start + count]
        truths = list(labeled.masks(chunk))
        inputs = batches(labeled.inputs(chunk), recipe.input, target)
        sizes = [truth.shape for truth in truths]
        replies = answers(network, inputs, sizes, recipe.input, recipe.tta, align_corners, precision)
        for packed, answer in zip(truths, replies, strict=True):
            truth, overlap = packed.unpack(), Overlap()
            for rows in blocks([Photograph(*packed.shape, {})]):
                mean = Mean(rows)
                mean.keep(answer, weight=1)
                overlap.add(mean.mask(), truth[rows])
            scores.append(overlap.dice())
            advance()
    return scores


def _chunk(spec: Input) -> int:
    """The number of photographs that are held as a network's input: whole batches, so that it changes no result."""
    return max(BATCH, min(CHUNK, PIXELS // (spec.height * spec.width)) // BATCH * BATCH)
