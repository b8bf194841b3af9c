"""Learning rates by epoch, from a recipe's phases."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from backdrop.recipe import Constant, Cosine, Phase


def learning_rates(phases: Sequence[Phase], epochs: int) -> list[float]:
    """The rate of every epoch, phases stretched or shrunk in proportion until they fill `epochs`."""
    return [
        rate for phase, length in zip(phases, lengths(phases, epochs), strict=True) for rate in _rates(phase, length)
    ]


def lengths(phases: Sequence[Phase], epochs: int) -> list[int]:
    """How many of `epochs` each phase takes: its own length where they add up, else in proportion to it.

    None vanishes as long as there is an epoch for each.
    """
    ends = list(accumulate(phase.epochs for phase in phases))
    stops = [0]
    for later, end in zip(reversed(range(len(ends))), ends, strict=True):
        proportional = (2 * end * epochs + ends[-1]) // (2 * ends[-1])
        least = stops[-1] + (epochs >= len(ends))
        stops.append(min(max(proportional, least), max(epochs - later, least)))
    return [stop - start for start, stop in pairwise(stops)]


def _rates(phase: Phase, length: int) -> list[float]:
    if isinstance(phase, Constant):
        return [phase.rate] * length
    if isinstance(phase, Cosine):
        swing = (phase.rate - phase.final) / 2
        return [phase.final + swing * (1 + math.cos(math.pi * i / max(1, length - 1))) for i in range(length)]
    return [phase.rates[i % len(phase.rates)] for i in range(length)]
