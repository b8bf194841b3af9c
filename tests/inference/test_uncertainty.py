"""How doubtful an answer is, against a plain loop in double precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.inference.uncertainty import Doubt, uncertain_regions, unconfidence

LIMITS = [0.25, 0.3, 0.5, 0.8, 0.9, 1.0]
# The limits as float32 knows them, what is just below and just above each, and anything else.
NEAR = [float(np.nextafter(np.float32(x), np.float32(to))) for x in LIMITS for to in (-1, 2)]
VALUES = st.one_of(
    st.sampled_from([0.0, *map(float, map(np.float32, LIMITS)), *NEAR]).filter(lambda p: p <= 1),
    st.floats(0, 1, width=32),
)
MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8), elements=VALUES)
INTERVALS = st.lists(st.sampled_from(LIMITS), min_size=3, max_size=3, unique=True).map(sorted)


def counted(probability: np.ndarray, low: float, high: float, top: float) -> tuple[int, int]:
    """Doubtful pixels and those that they are divided by, one after another."""
    low, high, top = (float(np.float32(limit)) for limit in (low, high, top))
    doubtful = others = 0
    for row in probability.tolist():
        for p in row:
            if low <= p <= high:
                doubtful += 1
            elif p < low or high < p <= top:
                others += 1
    return doubtful, others


@given(MAPS, INTERVALS)
def test_doubt_is_what_a_plain_loop_counts(probability: np.ndarray, limits: list[float]) -> None:
    low, high, top = limits
    doubtful, others = counted(probability, *limits)
    assert unconfidence(probability, low, high, top) == doubtful / max(1, others)


@given(MAPS)
def test_without_limits_they_are_the_winners(probability: np.ndarray) -> None:
    doubtful, others = counted(probability, 0.3, 0.8, 0.9)
    assert unconfidence(probability) == doubtful / max(1, others)


# Beside one sure pixel of background: what is doubtful makes 1, what is none but counts makes 0, what doesn't count 0.
@pytest.mark.parametrize(
    ("p", "steps", "unreliable", "divisor"),
    [
        (0.3, -1, 0, 2),
        (0.3, 0, 1, 1),
        (0.8, 0, 1, 1),
        (0.8, 1, 0, 2),
        (0.9, 0, 0, 2),
        (0.9, 1, 0, 1),
    ],
)
def test_limits_belong_where_the_formula_has_them(p: float, steps: int, unreliable: int, divisor: int) -> None:
    value = np.float32(p) if not steps else np.nextafter(np.float32(p), np.float32(p + steps))
    probability = np.array([[value, 0.0, 0.5]], np.float32)
    assert unconfidence(probability) == (unreliable + 1) / divisor


def test_an_answer_without_background_is_as_doubtful_as_its_pixels_are_many() -> None:
    assert unconfidence(np.full((3, 4), 0.5, np.float32)) == 12
    assert unconfidence(np.full((3, 4), 0.95, np.float32)) == 0


def test_regions_are_what_is_uncertain_beside_the_outline() -> None:
    probability = np.zeros((800, 1200), np.float32)
    probability[200:600, 200:1000] = 1
    probability[198:202, 200:1000] = 0.5  # the outline
    probability[310:330, 310:350] = 0.6
    probability[220:230, 800:810] = 0.4
    assert uncertain_regions(probability) == [(310, 310, 40, 20), (800, 220, 10, 10)]
    assert uncertain_regions(np.ones((5, 5), np.float32)) == []


def test_a_long_region_is_cut_up_and_only_the_largest_are_named() -> None:
    probability = np.zeros((800, 1200), np.float32)
    probability[10:30, 100:500] = 0.5
    assert uncertain_regions(probability) == [
        (151, 10, 149, 20),
        (301, 10, 149, 20),
        (100, 10, 50, 20),
        (451, 10, 49, 20),
    ]
    assert len(uncertain_regions(np.full((800, 1200), 0.5, np.float32))) == 20


def test_the_doubt_of_several_networks_has_the_scale_of_one() -> None:
    random = np.random.default_rng(0)
    maps = [random.random((20, 30)).astype(np.float32) for _ in range(5)]
    for weight in (1, 7, 2**20):
        one = Doubt()
        for _ in range(3):
            one.add(maps[0], weight)
        assert one.value() == pytest.approx(unconfidence(maps[0]))
    pooled = Doubt()
    for each in maps:
        pooled.add(each[:7], 3)
        pooled.add(each[7:], 3)
    assert pooled.value() == pytest.approx(unconfidence(np.stack(maps)))
    vague = Doubt()
    vague.add(np.full((4, 4), 0.5, np.float32), 2**20)
    assert vague.value() == unconfidence(np.full((4, 4), 0.5, np.float32)) == 16
