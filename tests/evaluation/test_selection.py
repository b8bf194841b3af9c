"""What to label next: the rule against a slow reference, and against chance."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.evaluation.selection import Vector, choose, look
from backdrop.evaluation.statistics import IMAGE_NAMES

NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))
LOOKS = st.lists(st.tuples(*[NUMBERS] * 3), min_size=1, max_size=6)


def slow(doubts: Sequence[float], looks: Sequence[Vector], labeled: Sequence[Vector], count: int) -> list[int]:
    """The places of the chosen, by the definition."""
    everything = [*looks, *labeled]
    spread = [math.sqrt(np.var([one[i] for one in everything])) for i in range(len(looks[0]))]

    def distance(a: Vector, b: Vector) -> float:
        squares = [((x - y) / s) ** 2 if s > 0 else 0.0 for x, y, s in zip(a, b, spread, strict=True)]
        return math.sqrt(sum(squares) / len(squares))

    chosen: list[int] = []
    while len(chosen) < min(count, len(looks)):
        known = [*labeled, *(looks[i] for i in chosen)]
        scores = {
            i: doubts[i] * min(distance(looks[i], other) for other in known)
            for i in range(len(looks))
            if i not in chosen
        }
        chosen.append(max(scores, key=lambda i: scores[i]))
    return chosen


@given(LOOKS, LOOKS, st.lists(st.floats(0, 1), min_size=6, max_size=6), st.integers(1, 9))
def test_the_rule_is_that_of_a_slow_reference(
    new: list[tuple[float, ...]], labeled: list[tuple[float, ...]], doubts: list[float], count: int
) -> None:
    looks, known = ([np.array(one) for one in group] for group in (new, labeled))
    names = [f"car{i}" for i in range(len(looks))]
    found = choose(dict(zip(names, doubts, strict=False)), dict(zip(names, looks, strict=True)), known, count)
    scores = [one.doubt * one.distance for one in found]
    assert scores == pytest.approx(sorted(scores, reverse=True))
    assert len(found) == len({one.object for one in found}) == min(count, len(looks))
    expected = slow(doubts, looks, known, count)
    gained = sum(one.doubt for one in found)
    if [one.object for one in found] != [names[i] for i in expected]:  # ties by the last bit
        assert gained == pytest.approx(sum(doubts[i] for i in expected), abs=1) or scores[0] == 0


def test_planted_doubtful_objects_come_first_and_twins_do_not() -> None:
    """Ten of 200 objects are doubtful, two of them twins; 20 random choices would find one of them."""
    random = np.random.default_rng(0)
    names = [f"car{i:03d}" for i in range(200)]
    doubts = dict(zip(names, random.uniform(0.002, 0.006, 200), strict=True))
    looks = {name: random.standard_normal(7) for name in names}
    planted = [str(name) for name in random.choice(names, 10, replace=False)]
    doubts |= dict.fromkeys(planted, 0.05)
    looks[planted[1]] = looks[planted[0]] + 1e-3
    labeled = [random.standard_normal(7) for _ in range(100)]
    found = [one.object for one in choose(doubts, looks, labeled, 20)]
    assert set(found[:9]) == set(planted) - {planted[1]} or set(found[:9]) == set(planted) - {planted[0]}
    assert len({planted[0], planted[1]} & set(found)) == 1


def test_what_looks_like_a_labeled_object_is_not_chosen() -> None:
    labeled = [np.zeros(7), np.ones(7)]
    found = choose({"a": 0.9, "b": 0.1}, {"a": np.zeros(7), "b": np.full(7, 5.0)}, labeled, 1)
    assert [one.object for one in found] == ["b"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), min_size=1), LOOKS)
def test_without_labeled_objects_the_most_doubtful_comes_first(
    doubts: dict[str, float], looks: list[tuple[float, ...]]
) -> None:
    given_looks = {name: np.array(looks[place % len(looks)]) for place, name in enumerate(doubts)}
    found = choose(doubts, given_looks, [], 9)
    assert sorted(one.object for one in found) == sorted(doubts)
    assert (found[0].doubt, found[0].distance) == (max(doubts.values()), math.inf)


def test_looks_are_means_over_photographs() -> None:
    photos = [dict.fromkeys(IMAGE_NAMES, value) for value in (1.0, 2.0)]
    assert look(photos) == pytest.approx([1.5] * len(IMAGE_NAMES))
