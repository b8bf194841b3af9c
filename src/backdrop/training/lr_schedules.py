"""Learning rates by epoch, from a recipe's phases. No state: a plateau is computed from the Dice of its epochs."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, takewhile

from backdrop.config.schedule import Constant, Cosine, Cycle, Exponential, OneCycle, Phase, Plateau, Restarts, Step


def learning_rates(phases: Sequence[Phase], epochs: int) -> list[float]:
    """The learning rate of every epoch, with phases scaled in proportion to fill `epochs`.

    A plateau is computed as if the Dice rose in every epoch.
    """
    return [learning_rate(phases, epochs, epoch, range(epoch)) for epoch in range(epochs)]


def learning_rate(phases: Sequence[Phase], epochs: int, epoch: int, dices: Sequence[float]) -> float:
    """The learning rate of one epoch.

    Args:
        phases: the recipe's schedule.
        epochs: total number of epochs.
        epoch: which one, from 0.
        dices: the out-of-fold Dice of each epoch before it; used by a plateau.
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
            return _cycled_lr(phase, *_position(phase, i, length))
        case Cosine():
            return _anneal(phase.lr, phase.final, i / max(1, length - 1))
        case Restarts():
            j, size = _position(phase, i, length)
            return _anneal(phase.lr, phase.final, j / size)
        case OneCycle():
            return _one_cycle(phase, i, length)


def started(phases: Sequence[Phase], epochs: int, epoch: int) -> Sequence[Phase]:
    """The phases that have started by an epoch, latest first: a setting holds until a later phase changes it."""
    return phases[locate(phases, epochs, epoch)[0] :: -1]


def scale_at(phases: Sequence[Phase], epochs: int, epoch: int) -> float:
    """The share of the input's width and height that an epoch trains at."""
    return phases[locate(phases, epochs, epoch)[0]].scale


def locate(phases: Sequence[Phase], epochs: int, epoch: int) -> tuple[int, int, int]:
    """The index of an epoch's phase, the phase's first epoch, and its number of epochs."""
    sizes = lengths(phases, epochs)
    stops = list(accumulate(sizes))
    index = next(i for i, stop in enumerate(stops) if epoch < stop)
    return index, stops[index] - sizes[index], sizes[index]


def lengths(phases: Sequence[Phase], epochs: int) -> list[int]:
    """The number of epochs of each phase, scaled in proportion so that they add up to `epochs`.

    Each phase gets at least one epoch if there are enough.
    """
    return _divide([phase.epochs for phase in phases], epochs)


def cycle_ends(phases: Sequence[Phase], epochs: int) -> list[int]:
    """The last epoch (from 0) of each round of a `cycle` or `restarts` phase, and of each other phase, ascending.

    A round cut short by the end of its phase belongs to the round before it.
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


def _divide(weights: Sequence[int], total: int, minimum: int = 1) -> list[int]:
    """Integers in proportion to weights with the sum `total`, each at least `minimum` if the total allows it."""
    minimum *= total >= minimum * len(weights)
    ends = list(accumulate(weights))
    stops = [0]
    for later, end in zip(reversed(range(len(ends))), ends, strict=True):
        proportional = (2 * end * total + ends[-1]) // (2 * ends[-1])
        stops.append(min(max(proportional, stops[-1] + minimum), total - later * minimum))
    return [stop - start for start, stop in pairwise(stops)]


def _own_epoch(phase: Phase, i: int, length: int) -> int:
    """The epoch, counted as in the recipe, that corresponds to the middle of the i-th of `length` epochs."""
    return (2 * i + 1) * phase.epochs // (2 * length)


def _anneal(first: float, last: float, share: float) -> float:
    """The value at a share (0..1) of a half cosine from one learning rate to another."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _plateau(phase: Plateau, length: int, dices: Sequence[float]) -> float:
    """The learning rate after epochs with these Dice values; the patience scales with the phase, minimum 1."""
    patience = max(1, (2 * phase.patience * length + phase.epochs) // (2 * phase.epochs))
    best, waited, drops = -math.inf, 0, 0
    for dice in dices:
        best, waited = (dice, 0) if dice > best else (best, waited + 1)
        if waited > patience:
            waited, drops = 0, drops + 1
    return phase.lr * phase.factor**drops


def _one_cycle(phase: OneCycle, i: int, length: int) -> float:
    """The learning rate with the peak where torch's OneCycleLR has it, which may be between two epochs."""
    peak = max(0.0, phase.warmup * length - 1)
    if i < peak:
        return _anneal(phase.start, phase.lr, i / peak)
    return _anneal(phase.lr, phase.final, (i - peak) / (length - 1 - peak or 1))


def _cycled_lr(phase: Cycle, j: int, size: int) -> float:
    """The learning rate of the j-th of a round's `size` epochs."""
    stops = accumulate(_divide(phase.lengths or [1] * len(phase.lrs), size))
    return next(lr for lr, stop in zip(phase.lrs, stops, strict=True) if j < stop)


def _position(phase: Cycle | Restarts, i: int, length: int) -> tuple[int, int]:
    """The position of a phase's i-th epoch in its round, and the round's number of epochs."""
    sizes = _rounds(phase, length)
    finished = list(takewhile(lambda stop: stop <= i, accumulate(sizes)))
    return i - (finished[-1] if finished else 0), sizes[len(finished)]


def _rounds(phase: Cycle | Restarts, length: int) -> list[int]:
    """The number of epochs of each round.

    If `length` is the phase's own, these are the recipe's rounds, and the end of the phase may cut the last one short.
    Otherwise the complete rounds (or the only one) are scaled in proportion. Rounds at the end are dropped if a cycle
    would have fewer epochs than learning rates, or a cosine fewer than two epochs.
    """
    natural = list(_natural_rounds(phase))
    if length == phase.epochs:
        return natural
    minimum = len(phase.lrs) if isinstance(phase, Cycle) else 2
    complete = [size for size, stop in zip(natural, accumulate(natural), strict=True) if stop <= phase.epochs]
    return _divide((complete or natural)[: max(1, length // minimum)], length, minimum)


def _natural_rounds(phase: Cycle | Restarts) -> Iterator[int]:
    """Epochs of each round as in the recipe, until they fill the phase."""
    size = float(phase.cycle if isinstance(phase, Restarts) else sum(phase.lengths) or len(phase.lrs))
    growth = phase.growth if isinstance(phase, Restarts) else 1.0
    done = 0
    while done < phase.epochs:
        yield round(size)
        done += round(size)
        size *= growth
