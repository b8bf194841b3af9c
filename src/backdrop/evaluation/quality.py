"""Sums up what masks are like: their measures over many photographs, and their probability's calibration."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backdrop.evaluation.calibration import Levels, calibrate
from backdrop.evaluation.metrics import object_means, spread
from backdrop.evaluation.outline import NAMES, Measures
from backdrop.evaluation.records import DICE, Quality, Score, Summary

SIGNED = "boundary_error"
MEASURED = (DICE, *NAMES)


@dataclass(frozen=True)
class Details:
    """A photograph's mask as measured, the levels of its probability, and the photograph's statistics."""

    measures: Measures
    levels: Levels
    statistics: Mapping[str, float]


def describe(scores: Sequence[Score], details: Mapping[str, Details]) -> dict[str, Quality]:
    """The quality of the masks out of fold and on the holdout, as far as there are any.

    Args:
        scores: the images'.
        details: by image.
    """
    parts = {
        "oof": [score for score in scores if score.fold is not None],
        "holdout": [score for score in scores if score.fold is None],
    }
    return {name: _quality(part, details) for name, part in parts.items() if part}


def summarize_measure(scores: Iterable[Score], measures: Mapping[str, Measures], name: str) -> Summary | None:
    """The summary of a measure, or of Dice, over photographs; None if it is defined for none of them."""
    pairs = [(score.object, value) for score in scores if (value := _value(score, measures, name)) is not None]
    if not pairs:
        return None
    means = object_means(pairs)
    found = spread(means)
    values = [value for _, value in pairs]
    ranking = sorted(map(abs, values), reverse=True) if name == SIGNED else sorted(values)
    worst = ranking[: math.ceil(len(ranking) / 10)]
    return Summary(
        objects=len(means),
        images=len(values),
        mean=found.mean,
        low=found.low,
        high=found.high,
        spread=float(np.std(values)),
        worst_tenth=math.fsum(worst) / len(worst),
    )


def _quality(scores: Sequence[Score], details: Mapping[str, Details]) -> Quality:
    measures = {image: one.measures for image, one in details.items()}
    found = {name: summarize_measure(scores, measures, name) for name in MEASURED}
    return Quality(
        measures={name: summary for name, summary in found.items() if summary},
        calibration=calibrate(details[score.image].levels for score in scores),
    )


def _value(score: Score, measures: Mapping[str, Measures], name: str) -> float | None:
    if name == DICE:
        return score.dice
    value: float | None = getattr(measures[score.image], name)
    return value
