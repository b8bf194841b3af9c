"""Predicts photographs that nobody labeled, and measures them."""

from collections.abc import Iterator, Sequence

from backdrop.data.dataset import CHUNK, opened_image
from backdrop.data.masks import Mask
from backdrop.data.photographs import Source
from backdrop.data.rle import encode_rle
from backdrop.evaluation.statistics import measure_image, measure_prediction
from backdrop.inference.batch import Cutout, cut_out
from backdrop.inference.ensemble import EnsembleModel, Outcome


class Measured(Cutout):
    """A photograph's mask as run lengths, and the photograph's statistics."""

    values: dict[str, float]


def measure_photographs(model: EnsembleModel, photos: Sequence[Source]) -> Iterator[Cutout]:
    """Each photograph as `Measured`, in order; one that can't be used as a `Cutout` with its `failure`."""
    for start in range(0, len(photos), CHUNK):
        yield from cut_out(model, photos[start : start + CHUNK], _measure)


def _measure(source: Source, outcome: Outcome, mask: Mask) -> Cutout:
    """A `Finish`; the photograph is decoded again, because those of a chunk wouldn't fit in memory."""
    assert outcome.probability is not None
    with opened_image(source.path) as image:
        values = measure_image(image) | measure_prediction(outcome.probability, mask)
    height, width = mask.shape
    return Measured(image=source.name, height=height, width=width, rle=encode_rle(mask), values=values)
