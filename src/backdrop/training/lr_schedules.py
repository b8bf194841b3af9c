"""Learning rates by epoch, from a recipe's phases. Nothing is remembered: a plateau replays the Dice of its epochs."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, takewhile

from backdrop.config.schedule import Constant, Cosine, Cycle, Exponential, OneCycle, Phase, Plateau, Restarts, Step


def learning_rates(phases: Sequence[Phase], epochs: int) -> list[float]:
    """The learning rate of every epoch, phases stretched or shrunk in proportion until they fill `epochs`.

    A plateau is shown as if the Dice rose at every epoch.
    """
    return [learning_rate(phases, epochs, epoch, range(epoch)) for epoch in range(epochs)]


def learning_rate(phases: Sequence[Phase], epochs: int, epoch: int, dices: Sequence[float]) -> float:
    """The learning rate of one epoch.

    Args:
        phases: the recipe's schedule.
        epochs: how many there are in all.
        epoch: which one, from 0.
        dices: the out-of-fold Dice of each epoch before it, which a plateau looks at.
    """
    index, start, length = locate(phases, epochs, epoch)
    phase, i = phases[index], epoch - start
    match phase:
        case Constant():
            return phase.lr
        case Step():
            return phase.lr * phase.factor ** (_own_epoch(phase, i, length) // phase.every)
        case Exponential():
            return phase.lr * math.pow(phase.final / phase.lr, i / max(1, length - 1))
        case Plateau():
            return _plateau(phase, length, dices[start:epoch])
        case Cycle():
            return _in_turn(phase, *_place(phase, i, length))
        case Cosine():
            return _anneal(phase.lr, phase.final, i / max(1, length - 1))
        case Restarts():
            j, size = _place(phase, i, length)
            return _anneal(phase.lr, phase.final, j / size)
        case OneCycle():
            return _one_cycle(phase, i, length)


def begun(phases: Sequence[Phase], epochs: int, epoch: int) -> Sequence[Phase]:
    """The phases that have begun by an epoch, the latest first: what one says holds until another does."""
    return phases[locate(phases, epochs, epoch)[0] :: -1]


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
    return _divide([phase.epochs for phase in phases], epochs)


def cycle_ends(phases: Sequence[Phase], epochs: int) -> list[int]:
    """The last epoch of each round of a `cycle` or of `restarts`, and of each other phase, from 0; rising.

    A round that its phase cuts short counts with the round before it.
    """
    ends: list[int] = []
    start = 0
    for phase, length in zip(phases, lengths(phases, epochs), strict=True):
        if length:
            rounds = _rounds(phase, length) if isinstance(phase, Cycle | Restarts) else [length]
            whole = [stop for stop in accumulate(rounds) if stop <= length]
            ends += [start + stop - 1 for stop in (*whole[:-1], length)]
        start += length
    return ends


def _divide(weights: Sequence[int], total: int, least: int = 1) -> list[int]:
    """Whole numbers in proportion to weights, their sum `total`; none is under `least` as long as that can be."""
    least *= total >= least * len(weights)
    ends = list(accumulate(weights))
    stops = [0]
    for later, end in zip(reversed(range(len(ends))), ends, strict=True):
        proportional = (2 * end * total + ends[-1]) // (2 * ends[-1])
        stops.append(min(max(proportional, stops[-1] + least), total - later * least))
    return [stop - start for start, stop in pairwise(stops)]


def _own_epoch(phase: Phase, i: int, length: int) -> int:
    """The epoch of a phase, as its recipe counts them, that the middle of its i-th epoch of `length` falls into."""
    return (2 * i + 1) * phase.epochs // (2 * length)


def _anneal(first: float, last: float, share: float) -> float:
    """Where half a cosine from one rate to another is after a share of it."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _plateau(phase: Plateau, length: int, dices: Sequence[float]) -> float:
    """The rate after epochs with these Dices; the patience is stretched or shrunk with the phase, to 1 at least."""
    patience = max(1, (2 * phase.patience * length + phase.epochs) // (2 * phase.epochs))
    best, waited, drops = -math.inf, 0, 0
    for dice in dices:
        best, waited = (dice, 0) if dice > best else (best, waited + 1)
        if waited > patience:
            waited, drops = 0, drops + 1
    return phase.lr * phase.factor**drops


def _one_cycle(phase: OneCycle, i: int, length: int) -> float:
    """The peak is where torch's OneCycleLR has it, which may be between two epochs."""
    peak = max(0.0, phase.warmup * length - 1)
    if i < peak:
        return _anneal(phase.start, phase.lr, i / peak)
    return _anneal(phase.lr, phase.final, (i - peak) / (length - 1 - peak or 1))


def _in_turn(phase: Cycle, j: int, size: int) -> float:
    """The rate of a round's j-th epoch of `size`."""
    stops = accumulate(_divide(phase.lengths or [1] * len(phase.lrs), size))
    return next(lr for lr, stop in zip(phase.lrs, stops, strict=True) if j < stop)


def _place(phase: Cycle | Restarts, i: int, length: int) -> tuple[int, int]:
    """Which epoch of its round a phase's i-th is, and how many epochs the round has."""
    sizes = _rounds(phase, length)
    begun = list(takewhile(lambda stop: stop <= i, accumulate(sizes)))
    return i - (begun[-1] if begun else 0), sizes[len(begun)]


def _rounds(phase: Cycle | Restarts, length: int) -> list[int]:
    """How many epochs each round takes.

    At the phase's own length as the recipe says, the last perhaps cut short by its end. At any other, its whole rounds
    (or the one that it begins) are stretched or shrunk in proportion; the last ones are left out where there would be
    no epoch for each rate of a cycle, or fewer than two for a cosine.
    """
    natural = list(_natural_rounds(phase))
    if length == phase.epochs:
        return natural
    least = len(phase.lrs) if isinstance(phase, Cycle) else 2
    whole = [size for size, stop in zip(natural, accumulate(natural), strict=True) if stop <= phase.epochs]
    return _divide((whole or natural)[: max(1, length // least)], length, least)


def _natural_rounds(phase: Cycle | Restarts) -> Iterator[int]:
    """Epochs of each round as the recipe says, until they fill the phase."""
    size = float(phase.cycle if isinstance(phase, Restarts) else sum(phase.lengths) or len(phase.lrs))
    growth = phase.growth if isinstance(phase, Restarts) else 1.0
    done = 0
    while done < phase.epochs:
        yield round(size)
        done += round(size)
        size *= growth
