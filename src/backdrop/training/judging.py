"""Judges a network by the photographs that it doesn't train on, at their own size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from backdrop.common.devices import precision_of
from backdrop.common.progress import progress
from backdrop.config import Input, Recipe
from backdrop.data.dataset import CHUNK, Dataset, Digests, Photo, in_threads, opened_image, read_mask
from backdrop.data.folds import Row
from backdrop.data.masks import Mask, Overlap, binarize
from backdrop.data.preprocessing import to_input
from backdrop.evaluation.metrics import object_means
from backdrop.inference.batch import PIXELS
from backdrop.inference.ensemble import Photograph, blocks
from backdrop.inference.predict import BATCH, answers, batches
from backdrop.training.distributed import ALONE, Distributed


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
            photos = self.dataset.select(row.image for row in shard)
            scores = dices(candidate, photos, self.digests, self.recipe, advance)
        return self.distributed.gather(scores)

    def mean(self, scores: Sequence[float]) -> float:
        """The mean over objects, so that each counts the same however many views it has."""
        means = object_means((row.object, value) for row, value in zip(self.rows, scores, strict=True))
        return sum(means.values()) / len(means)


def dices(
    network: nn.Module,
    photos: Sequence[Photo],
    digests: Digests,
    recipe: Recipe,
    advance: Callable[[], None] = lambda: None,
) -> list[float]:
    """Dice of each photograph at its own size, in memory that is bounded for photographs of any number and size.

    Args:
        network: in evaluation mode.
        photos: photographs with masks.
        digests: sha256 of image and mask by stem.
        recipe: the network's recipe.
        advance: called for each photograph.

    Raises:
        DataError: if a photograph or mask can't be read, has changed, or doesn't fit the recipe's input.
    """

    def prepare(photo: Photo) -> Photograph:
        with opened_image(photo.image, digests[photo.stem][0]) as image:
            height, width = image.shape[:2]
            return Photograph(height, width, {recipe.input: to_input(image, recipe.input)})

    scores: list[float] = []
    count, target = _chunk(recipe.input), next(network.parameters()).device
    align_corners, precision = recipe.legacy.output_align_corners, precision_of(recipe.compute.precision, target)
    for start in range(0, len(photos), count):
        chunk = photos[start : start + count]
        prepared = in_threads(prepare, chunk)
        inputs, sizes = [p.inputs[recipe.input] for p in prepared], [(p.height, p.width) for p in prepared]
        shown = batches(inputs, recipe.input, target)
        replies = answers(network, shown, sizes, recipe.input, recipe.tta, align_corners, precision)
        for photo, truth, answer in zip(prepared, _truths(chunk, prepared, digests), replies, strict=True):
            overlap = Overlap()
            for rows in blocks([photo]):
                overlap.add(binarize(answer.probability(rows)), truth[rows])
            scores.append(overlap.dice())
            advance()
    return scores


def _chunk(spec: Input) -> int:
    """The number of photographs that are held as a network's input: whole batches, so that it changes no result."""
    return max(BATCH, min(CHUNK, PIXELS // (spec.height * spec.width)) // BATCH * BATCH)


def _truths(photos: Sequence[Photo], prepared: Sequence[Photograph], digests: Digests) -> Iterator[Mask]:
    """Each photograph's mask (H, W), read in threads: as many at a time as have `PIXELS` pixels together."""

    def read(photo: Photo) -> Mask:
        assert photo.mask is not None  # Dataset.select has checked it
        return read_mask(photo.mask, digests[photo.stem][1])

    group: list[Photo] = []
    room = PIXELS
    for photo, size in zip(photos, prepared, strict=True):
        if group and size.pixels > room:
            yield from in_threads(read, group)
            group, room = [], PIXELS
        group.append(photo)
        room -= size.pixels
    yield from in_threads(read, group)
