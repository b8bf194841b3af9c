"""Learning rates by epoch, from a recipe's phases."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from backdrop.recipe.schedule import Constant, Cosine, Cycle, Phase


def learning_rates(phases: Sequence[Phase], epochs: int) -> list[float]:
    """The rate of every epoch, phases stretched or shrunk in proportion until they fill `epochs`.

    A plateau is shown as if the Dice rose at every epoch.
    """
    return [rate(phases, epochs, epoch, range(epoch)) for epoch in range(epochs)]


def rate(phases: Sequence[Phase], epochs: int, epoch: int, dices: Sequence[float]) -> float:
    """The rate of one epoch.

    Args:
        phases: the recipe's schedule.
        epochs: how many there are in all.
        epoch: which one, from 0.
        dices: the out-of-fold Dice of each epoch before it, which a plateau looks at.
    """
    index, start, length = locate(phases, epochs, epoch)
    phase, i = phases[index], epoch - start
    if isinstance(phase, Constant):
        return phase.rate
    if isinstance(phase, Cosine):
        swing = (phase.rate - phase.final) / 2
        return phase.final + swing * (1 + math.cos(math.pi * i / max(1, length - 1)))
    if isinstance(phase, Cycle):
        return phase.rates[i % len(phase.rates)]
    raise NotImplementedError(phase.kind)


def locate(phases: Sequence[Phase], epochs: int, epoch: int) -> tuple[int, int, int]:
    """Which phase an epoch is in, the phase's first epoch, and how many it has here."""
    sizes = lengths(phases, epochs)
    stops = list(accumulate(sizes))
    index = next(i for i, stop in enumerate(stops) if epoch < stop)
    return index, stops[index] - sizes[index], sizes[index]


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
