"""The exact mean of many networks' probabilities.

A network computes in float; its probability is then rounded once to 2^-24 and summed with integer weights in float64,
where whole numbers below 2^53 are exact, so that the mean is the same to the last bit whatever the order of networks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backdrop.data import masks
from backdrop.inference.answer import ALL, TILE, Answer, kind, together

STRIP = 2**18  # pixels that a CPU adds at a time, so that they stay in its cache
ONE = 2**24
WEIGHT_ONE = 2**20
EXACT = 2**53  # float64 represents every whole number up to here
KEPT = 2**27  # bytes of answers that are kept of all photographs that are predicted at a time
SURE = 1e-3  # a tile is decided if its bounds are this far from one half, which is far more than float32's rounding


def quantize(probability: Tensor) -> Tensor:
    """A probability as whole units of 2^-24. Exact: float32 represents every whole number up to 2^24."""
    return (probability * ONE).round_()


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Weights as integers in units of 2^-20 of their sum, at least 1 each."""
    total = sum(sorted(weights))
    return [max(1, round(weight / total * WEIGHT_ONE)) for weight in weights]


class Mean:
    """The running weighted mean of networks' probabilities for one photograph, or for some of its rows.

    Probabilities are added at once. Answers are kept until the mean is asked for, as long as there is room. A mask
    alone then needs the sum only where networks are in doubt: most tiles are inside or outside for certain.
    """

    def __init__(self, rows: slice = ALL, room: int = KEPT) -> None:
        """Begins with nothing.

        Args:
            rows: those of which the mean is taken.
            room: bytes of answers that may be kept; more are added to the sum.
        """
        self.total: Tensor | None = None
        self.weight = 0
        self._rows, self._room = rows, room
        self._kept: list[tuple[Answer, int]] = []

    @torch.inference_mode()
    def add(self, probability: Tensor, weight: int) -> None:
        """Adds a network's probability (H, W) with an integer weight."""
        first = self.total is None
        total = torch.empty_like(probability, dtype=torch.float64) if self.total is None else self.total
        for rows in _strips(total):
            part = quantize(probability[rows])
            if first:
                total[rows].copy_(part).mul_(weight)
            else:
                total[rows].add_(part, alpha=weight)
        self.total = total
        self._weigh(weight)

    def keep(self, answer: Answer, weight: int) -> None:
        """Adds a network's answer with an integer weight; it is computed on when the mean is asked for."""
        self._kept.append((answer, weight))
        self._weigh(weight)
        if sum(kept.logits.nbytes for kept, _ in self._kept) > self._room:
            self._add_kept()

    def probability(self) -> NDArray[np.float32]:
        """The mean (H, W), 0..1."""
        self._add_kept()
        assert self.total is not None
        mean = torch.empty_like(self.total, dtype=torch.float32)
        for rows in _strips(self.total):
            mean[rows] = self.total[rows] / (self.weight * ONE)
        return mean.cpu().numpy()

    def mask(self) -> masks.Mask:
        """Where the mean exceeds one half, (H, W); exact, on whole numbers."""
        if self.total is None and self._kept[0][0].logits.device.type == "cpu":
            return self._decide()
        self._add_kept()
        assert self.total is not None
        return (self.total > self.weight * (ONE // 2)).cpu().numpy()

    def _weigh(self, weight: int) -> None:
        self.weight += weight
        assert self.weight * ONE <= EXACT

    def _range(self, answer: Answer) -> range:
        return range(*self._rows.indices(answer.height))

    def _stacks(self) -> list[tuple[Answer, list[int]]]:
        """The answers that are kept, those of a kind together, with their weights."""
        kinds: dict[tuple[object, ...], list[tuple[Answer, int]]] = {}
        for answer, weight in self._kept:
            kinds.setdefault(kind(answer), []).append((answer, weight))
        return [(together([answer for answer, _ in some]), [weight for _, weight in some]) for some in kinds.values()]

    @torch.inference_mode()
    def _add_kept(self) -> None:
        """Adds the answers that are kept to the sum, piece by piece."""
        if not self._kept:
            return
        stacks = self._stacks()
        self._kept.clear()
        answer = max((answer for answer, _ in stacks), key=lambda answer: answer.logits.shape[1])
        places = self._range(answer)
        if self.total is None:
            self.total = answer.logits.new_zeros(len(places), answer.width, dtype=torch.float64)
        for rows, columns in answer.pieces(places):
            part = _sum(stacks, rows, columns)[:, : answer.width - columns.start]
            self.total[rows.start - places.start : rows.stop - places.start, columns].add_(part)

    @torch.inference_mode()
    def _decide(self) -> masks.Mask:
        """The mask from the answers that are kept: the sum only of tiles that their bounds don't decide."""
        stacks = self._stacks()
        answer = max((answer for answer, _ in stacks), key=lambda answer: answer.logits.shape[1])
        places = self._range(answer)
        inside, open_ = self._decided(stacks, places)
        mask = np.empty((len(places), answer.whole_width), bool)
        step = answer.room(TILE * TILE)
        for index, top in enumerate(range(places.start, places.stop, TILE)):
            rows = range(top, min(top + TILE, places.stop))
            strip = mask[top - places.start : rows.stop - places.start]
            strip[:] = inside[index].repeat(TILE)
            tiles = np.flatnonzero(open_[index])
            for some in (tiles[start : start + step] for start in range(0, len(tiles), step)):
                columns = (some[:, None] * TILE + np.arange(TILE)).ravel()
                strip[:, columns] = _sum(stacks, rows, torch.from_numpy(columns)) > self.weight * (ONE // 2)
        return mask[:, : answer.width]

    def _decided(self, stacks: Sequence[tuple[Answer, list[int]]], rows: range) -> tuple[masks.Mask, masks.Mask]:
        """The tiles (rows, columns) that are inside, and those that are neither inside nor outside for certain."""
        bounds = [(weights, *answer.bounds(rows)) for answer, weights in stacks]
        low = np.sum([np.tensordot(weights, least.double(), 1) for weights, least, _ in bounds], axis=0)
        high = np.sum([np.tensordot(weights, most.double(), 1) for weights, _, most in bounds], axis=0)
        inside, outside = low > (0.5 + SURE) * self.weight, high < (0.5 - SURE) * self.weight
        return np.asarray(inside), ~np.asarray(inside | outside)


def merge(means: Sequence[tuple[Mean, int]]) -> Mean:
    """The mean of the networks of several means, to the last bit as if each had been added with its mean's weight.

    Args:
        means: means to which something was added, with their integer weights. One alone is returned as it is.
    """
    if len(means) == 1:
        return means[0][0]
    merged = Mean()
    for mean, weight in means:
        assert mean.total is not None
        if merged.total is None:
            merged.total = torch.zeros_like(mean.total)
        merged.total.add_(mean.total, alpha=weight)
        merged._weigh(mean.weight * weight)
    return merged


def _strips(values: Tensor) -> Iterator[slice]:
    """Rows to compute on at a time: on a CPU so few that they stay in its cache."""
    step = max(1, STRIP // values.shape[1]) if values.device.type == "cpu" else len(values)
    return (slice(top, top + step) for top in range(0, len(values), step))


def _sum(stacks: Sequence[tuple[Answer, list[int]]], rows: range, columns: slice | Tensor) -> Tensor:
    """The weighted sum (n, m) float64 of answers' probabilities in units of 2^-24, of some rows and columns."""
    total: Tensor | None = None
    for answer, weights in stacks:
        width = columns.stop - columns.start if isinstance(columns, slice) else len(columns)
        step = answer.room(len(rows) * width)
        for start in range(0, len(weights), step):
            part = replace(answer, logits=answer.logits[start : start + step]).probabilities(rows, columns)
            part.mul_(ONE).round_()
            if total is None:
                total = part.new_zeros(part.shape[1:], dtype=torch.float64)
            for probability, weight in zip(part, weights[start : start + step], strict=True):
                total.add_(probability, alpha=weight)
    assert total is not None
    return total
