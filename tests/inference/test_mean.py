from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backdrop.config import Input, Tta
from backdrop.inference.answer import Answer
from backdrop.inference.mean import ONE, Mean, integer_weights, merge, quantize

SIZE = (6, 5)


def probability(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(SIZE, np.float32))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 2**20)), min_size=1, max_size=9), st.randoms())
def test_the_mean_does_not_depend_on_order(votes: list[tuple[int, int]], random) -> None:
    shuffled = votes.copy()
    random.shuffle(shuffled)
    means = []
    for order in (votes, shuffled):
        mean = Mean()
        for seed, weight in order:
            mean.add(probability(seed), weight)
        means.append(mean)
    assert np.array_equal(means[0].probability(), means[1].probability())
    assert np.array_equal(means[0].mask(), means[1].mask())
    exact = sum(w * probability(s).double() for s, w in votes) / sum(w for _, w in votes)
    assert np.allclose(means[0].probability(), exact, atol=2**-24)


@given(
    st.lists(
        st.tuples(st.integers(1, 2**16), st.lists(st.integers(0, 99), min_size=1, max_size=4)), min_size=1, max_size=4
    )
)
def test_merged_means_are_those_of_all_their_networks(groups: list[tuple[int, list[int]]]) -> None:
    whole, parts = Mean(), []
    for weight, seeds in groups:
        part = Mean()
        for seed in seeds:
            part.add(probability(seed), 1)
            whole.add(probability(seed), weight)
        parts.append((part, weight))
    merged = merge(parts)
    assert np.array_equal(merged.probability(), whole.probability())
    assert np.array_equal(merged.mask(), whole.mask())


def test_rounding_is_to_the_nearest_24th_bit() -> None:
    values = torch.tensor([0.0, 1.0, 0.5, 2**-24, 2**-25 * 0.99, 1 - 2**-24, 1 / 3])
    expected = [round(float(v) * ONE) for v in values]
    assert quantize(values).tolist() == expected


def test_half_is_not_yet_inside() -> None:
    mean = Mean()
    mean.add(torch.tensor([[0.5, 0.5 + 2**-24]]), 7)
    assert mean.mask().tolist() == [[False, True]]


def test_integer_weights_keep_proportions_and_never_vanish() -> None:
    assert integer_weights([1, 1, 2]) == [2**18, 2**18, 2**19]
    assert integer_weights([1.0, 1e-12])[1] == 1
    assert integer_weights([0.1] * 3) == integer_weights([7] * 3)


# Answers that are kept until the mean is asked for.


def answers(size: tuple[int, int], seeds: range, noise: float, **changes: Any) -> list[Answer]:
    """Networks' answers of a disc to a photograph of a height and width, more or less noisy."""
    spec = Input.model_validate({"size": "64x48", **changes})
    y, x = np.mgrid[:48, :64] / 48
    disc = 40 * (0.35 - np.hypot(y - 0.5, x - 0.6))
    found = []
    for seed in seeds:
        logits = (disc + noise * np.random.default_rng(seed).normal(size=(1, 2, 48, 64))).astype(np.float32)
        found.append(Answer(torch.from_numpy(logits), *size, spec, Tta(hflip=True, average="probabilities"), False))
    return found


def by_hand(given: Sequence[Answer], weights: Sequence[int], rows: slice) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean and the mask from whole numbers below 2^53."""
    units = [np.rint(answer.probability(rows).numpy().astype(np.float64) * ONE) for answer in given]
    total = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
    return (total / (sum(weights) * ONE)).astype(np.float32), 2 * total > sum(weights) * ONE


@pytest.mark.parametrize("size", [(200, 300), (97, 130), (45, 61), (31, 1)])
@pytest.mark.parametrize("rows", [slice(None), slice(13, 40)])
@pytest.mark.parametrize("noise", [0.0, 3.0, 30.0])
def test_answers_are_summed_exactly_and_a_mask_alone_is_the_same(
    size: tuple[int, int], rows: slice, noise: float
) -> None:
    given = [
        *answers(size, range(2), noise),
        *answers(size, range(4, 7), noise, clahe=True),
    ]
    weights = [2**18, 3, 2**19, 70_001, 2**18]
    mean, mask = by_hand(given, weights, rows)
    for order in (1, -1):
        both, alone, mixed = Mean(rows), Mean(rows), Mean(rows)
        for answer, weight in list(zip(given, weights, strict=True))[::order]:
            both.keep(answer, weight)
            alone.keep(answer, weight)
            if weight == 3:
                mixed.add(answer.probability(rows), weight)
            else:
                mixed.keep(answer, weight)
        assert np.array_equal(alone.mask(), mask)
        assert np.array_equal(both.probability(), mean)
        assert np.array_equal(both.mask(), mask)
        assert np.array_equal(mixed.mask(), mask)
        assert np.array_equal(mixed.probability(), mean)


def test_a_mask_alone_needs_only_the_tiles_at_the_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    given = answers((640, 960), range(3), 0.1)
    _, mask = by_hand(given, [1, 1, 1], slice(None))
    computed, probabilities = [], Answer.probabilities

    def watched(self: Answer, rows: range, columns: Any) -> torch.Tensor:
        computed.append(len(self.logits) * len(rows) * len(columns))
        return probabilities(self, rows, columns)

    monkeypatch.setattr(Answer, "probabilities", watched)
    mean = Mean()
    for answer in given:
        mean.keep(answer, 1)
    assert np.array_equal(mean.mask(), mask)
    assert mean.total is None
    assert 0 < sum(computed) < 0.3 * 3 * mask.size


def test_no_more_answers_are_kept_than_there_is_room() -> None:
    given = answers((200, 300), range(9), 1.0)
    room = 3 * given[0].logits.nbytes
    mean, _ = by_hand(given, [1] * 9, slice(None))
    some = Mean(room=room)
    for answer in given:
        some.keep(answer, 1)
        assert sum(kept.logits.nbytes for kept, _ in some._kept) <= room
    assert some.total is not None
    assert np.array_equal(some.probability(), mean)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_no_number_is_not_decided_by_its_neighbors(value: float) -> None:
    given = answers((200, 300), range(3), 0.1)
    for answer in given:
        answer.logits[:, :, 20:24, 30:34] = value
    _, mask = by_hand(given, [1, 1, 1], slice(None))
    mean = Mean()
    for answer in given:
        mean.keep(answer, 1)
    assert np.array_equal(mean.mask(), mask)
