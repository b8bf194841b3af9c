"""The gate's p and levels: honest in the far tail, over a whole life, and still able to see a gain."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backdrop.evaluation.significance import ALPHA, adjusted_p, level, p_value
from benchmarks.gate import NOISES, promotions

SAMPLES = arrays(
    np.float64, st.sampled_from([2, 3, 12, 25]), elements=st.floats(-1, 1).map(lambda value: round(value, 6))
)
HELD = ["normal", "heavy tails", "skewed to the left (2)"]


@given(SAMPLES)
def test_a_sample_and_its_negation_are_never_both_significant(sample: np.ndarray) -> None:
    for p in (p_value, adjusted_p):
        there, back = float(p(sample)), float(p(-sample))
        assert 0 < there <= 1
        assert max(there, back) >= 0.5 or math.isclose(max(there, back), 0.5)


@given(SAMPLES, st.floats(0.01, 100))
def test_the_unit_of_the_differences_does_not_matter(sample: np.ndarray, unit: float) -> None:
    if np.ptp(sample) > 1e-3:
        assert p_value(sample * unit) == pytest.approx(p_value(sample), rel=1e-6, abs=1e-11)


def test_many_samples_are_judged_as_one() -> None:
    samples = np.random.default_rng(0).normal(0.3, 1, (4, 5, 14))
    single = [[float(p_value(sample)) for sample in row] for row in samples]
    assert p_value(samples) == pytest.approx(np.array(single), rel=1e-12)


def test_a_constant_difference_is_certain() -> None:
    assert [float(p_value(np.full(12, value))) for value in (0.25, 0.0, -0.25)] == pytest.approx([0, 1, 1], abs=1e-9)


@pytest.mark.thorough
def test_thousands_of_objects_need_little_memory_and_warn_of_nothing() -> None:
    sample = np.random.default_rng(0).normal(0.1, 1, 2_000)
    tracemalloc.start()
    p = float(p_value(sample))
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()
    assert 6.5e-4 < p < 1e-3  # Student's is 6.5e-4


def test_the_levels_never_add_up_to_more_than_alpha() -> None:
    levels = [level(look) for look in range(1, 2001)]
    assert math.fsum(levels) == pytest.approx(ALPHA * (1 - 1 / 2001))
    assert levels == sorted(levels, reverse=True)
    assert ALPHA < 0.05


@pytest.mark.parametrize("objects", [12, 24, 48])
@pytest.mark.parametrize("name", HELD)
def test_p_holds_in_the_far_tail(name: str, objects: int) -> None:
    rng, rounds = np.random.default_rng(1), 30_000
    p = p_value(NOISES[name](rng, (rounds, objects)))
    for limit in (0.0225, 1e-3):
        assert (p < limit).sum() <= limit * rounds + 4 * math.sqrt(limit * rounds)


def _short(name: str, grows: bool, objects: int = 16) -> float:
    return float(promotions(NOISES[name], objects, lives=1000, looks=12, grows=grows).any(0).mean())


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("name", ["normal", "skewed to the left (2)"])
def test_few_lives_have_a_false_promotion(name: str, grows: bool) -> None:
    assert _short(name, grows) <= ALPHA + 3 * math.sqrt(ALPHA / 1000)


@pytest.mark.slow
@pytest.mark.parametrize("objects", [12, 24, 48])
@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", HELD)
def test_at_most_one_life_in_twenty_has_a_false_promotion(name: str, steady: bool, grows: bool, objects: int) -> None:
    assert promotions(NOISES[name], objects, grows=grows, steady=steady).any(0).mean() <= 0.05


@pytest.mark.parametrize(("objects", "share"), [(24, 0.8), (48, 0.9)])
@pytest.mark.parametrize("steady", [False, True])
def test_a_gain_of_three_and_a_half_standard_errors_is_promoted_within_four_looks(
    objects: int, share: float, steady: bool
) -> None:
    promoted = promotions(NOISES["normal"], objects, looks=4, steady=steady, gain=3.5)
    assert promoted.any(0).mean() >= share


@pytest.mark.parametrize("groups", [3, 16])
@pytest.mark.parametrize("objects", [12, 24])
def test_an_equal_challenger_is_rarely_worse_on_any_slice(objects: int, groups: int) -> None:
    for name, noise in NOISES.items():
        rng = np.random.default_rng(2)
        shared, own = noise(rng, (4000, objects)), noise(rng, (4000 * groups, objects)).reshape(4000, groups, objects)
        losses = -(shared[:, None] + own)
        assert (adjusted_p(losses).min(1) < 0.05 / groups).mean() <= 0.05, name


@pytest.mark.parametrize(("groups", "share"), [(3, 0.8), (16, 0.6)])
def test_a_loss_of_three_and_a_half_standard_errors_on_one_slice_is_seen(groups: int, share: float) -> None:
    losses = np.random.default_rng(3).normal(3.5 / 24**0.5, 1, (4000, 24))
    assert (adjusted_p(losses) < 0.05 / groups).mean() >= share
