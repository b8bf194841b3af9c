"""The test for drift: its false alarms, what it finds, what it can't tell, and what names tell it."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backdrop.evaluation import drift
from backdrop.evaluation.drift import ALL, ANY, Place, Usual, _columns, _differences, comparable, compare, identify
from backdrop.evaluation.statistics import NAMES, Statistics

Floats = NDArray[np.float64]
VIEWS = ("01", "02", "03")


def photographs(values: Floats, names: Sequence[str], views: Sequence[str] = VIEWS) -> list[Statistics]:
    """Of values (objects, views, statistics)."""
    return [
        Statistics(f"{name}_{view}", name, view, "", dict(zip(NAMES, map(float, values[i, j]), strict=True)))
        for i, name in enumerate(names)
        for j, view in enumerate(views)
    ]


def draw(random: np.random.Generator, objects: int) -> Floats:
    """Objects that differ far more than their views do, with heavy tails, ties and statistics that hang together."""
    common = random.standard_t(3, (objects, 1, 1)) + 0.3 * random.standard_normal((objects, len(VIEWS), 1))
    values = common + random.standard_normal((objects, 1, len(NAMES)))
    values[..., 0] = np.round(values[..., 0])
    values[..., 1] = 7.0
    return np.asarray(values)


def groups(random: np.random.Generator, held: int, new: int) -> tuple[list[Statistics], list[Statistics]]:
    values = draw(random, held + new)
    return (
        photographs(values[:held], [f"h{i}" for i in range(held)]),
        photographs(values[held:], [f"n{i}" for i in range(new)]),
    )


@pytest.mark.parametrize(("held", "new"), [(8, 5), (30, 6), (12, 40)])
def test_false_alarms_are_as_rare_as_stated(held: int, new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """250 draws without drift; with a true rate of 5 %, more than 24 alarms have a chance of 0.1 %."""
    monkeypatch.setattr(drift, "SHUFFLES", 199)
    random = np.random.default_rng(1)
    found = [compare(*groups(random, held, new), alpha=0.05) for _ in range(250)]
    alarms = sum(one.verdict == "drift" for one in found)
    assert alarms <= 24
    assert alarms >= 3 or found[0].verdict == "unclear"  # it isn't wasteful, either


def test_photographs_without_views_raise_no_more_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has three views, and each current object one photograph that doesn't say of which."""
    monkeypatch.setattr(drift, "SHUFFLES", 199)
    random, alarms = np.random.default_rng(2), 0
    for _ in range(250):
        reference, current = groups(random, 20, 12)
        kept = [one for i, one in enumerate(current) if i % 3 == (i // 3) % 3]
        single = [Statistics(one.image, one.image, ANY, "", one.values) for one in kept]
        alarms += compare(comparable(reference, {ANY}), single, 0.05).verdict == "drift"
    assert alarms <= 24


def test_incomplete_objects_raise_no_more_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each current object has one view only, so it spreads more than the mean over all views of the others."""
    monkeypatch.setattr(drift, "SHUFFLES", 199)
    random, alarms = np.random.default_rng(3), 0
    for _ in range(250):
        reference, current = groups(random, 25, 12)
        some = [one for i, one in enumerate(current) if i % 3 == (i // 3) % 3]
        found = compare(reference, some, 0.05)
        assert {one.view for one in found.comparisons} == set(VIEWS)
        alarms += found.verdict == "drift"
    assert alarms <= 24


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 5))
def test_differences_are_those_of_a_slow_reference(seed: int, held: int, new: int) -> None:
    random = np.random.default_rng(seed)
    reference, current = groups(random, held, new)
    reference = [one for one in reference if random.random() < 0.8] or reference
    current = [one for one in current if random.random() < 0.8] or current
    if not {one.view for one in reference} & {one.view for one in current}:
        return
    for one in compare(reference, current, 0.05).comparisons:
        if one.view == ALL:
            continue
        old, fresh = ([p.values[one.statistic] for p in g if p.view == one.view] for g in (reference, current))
        both = [*old, *fresh]
        ranks = [sum(b < a for b in both) + (sum(b == a for b in both) + 1) / 2 for a in both]
        count, middle = len(both), (len(both) + 1) / 2
        total = math.fsum(rank - middle for rank in ranks[len(old) :])
        square = math.fsum((rank - middle) ** 2 for rank in ranks)
        variance = len(old) * len(fresh) / (count * max(1, count - 1)) * square
        assert one.difference == pytest.approx(total / math.sqrt(variance) if variance else 0.0, abs=1e-9)
        assert one.reference == pytest.approx(np.mean(old))
        assert one.current == pytest.approx(np.mean(fresh))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(2, 7))
def test_a_difference_is_standardized_over_all_shuffles(seed: int, held: int, new: int) -> None:
    """Over all ways to choose the current objects, each comparison has mean 0 and variance 1, or is 0 throughout."""
    reference, current = groups(np.random.default_rng(seed), held, new)
    objects = [sorted({one.object for one in group}) for group in (reference, current)]
    values = np.stack([*_columns(reference, current, objects, VIEWS).values()], 1)
    origins = np.array(
        [
            [bool(code >> i & 1) for i in range(held + new)]
            for code in range(2 ** (held + new))
            if code.bit_count() == new
        ]
    )
    found = _differences(values, origins)
    assert found.mean(0) == pytest.approx(np.zeros(values.shape[1]), abs=1e-9)
    variance = (found**2).mean(0)
    assert (np.isclose(variance, 1) | (variance == 0)).all()


@pytest.mark.parametrize("name", ["all", "ANY", "ansicht-ü", "1,5"])
def test_a_view_may_have_any_name(name: str) -> None:
    values = draw(np.random.default_rng(8), 12)
    views = ["1", name, "9"]
    places = identify([f"car_{view}.jpg" for view in views], views)
    assert [place.view for place in places.values()] == views
    names = [f"{origin}{i}" for origin in "hn" for i in range(6)]
    reference, current = (photographs(values[part], names[part], views) for part in (slice(6), slice(6, 12)))
    plain = (photographs(values[part], names[part], ["1", "5", "9"]) for part in (slice(6), slice(6, 12)))
    found, expected = (
        {(one.statistic, {name: "5"}.get(one.view, one.view)): one.current for one in compare(*both, 0.05).comparisons}
        for both in ((reference, current), plain)
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["café_01", "day/Škoda Ø_01", "가_01"])
def test_objects_and_views_have_the_accents_of_a_plan(name: str, form: Literal["NFC", "NFD"]) -> None:
    """macOS decomposes them; a known object would count as new."""
    file = f"{unicodedata.normalize(form, name)}.jpg"
    assert identify([file], {"01"}) == {file: Place(unicodedata.normalize("NFC", name[:-3]), "01")}
    assert identify([file], {"02"}) == {file: Place(unicodedata.normalize("NFC", name), ANY)}


def test_any_growing_change_of_a_statistic_changes_nothing() -> None:
    reference, current = groups(np.random.default_rng(4), 20, 10)

    def changed(photos: list[Statistics], change: Callable[[float], float]) -> list[Statistics]:
        return [
            Statistics(p.image, p.object, p.view, p.fold, {k: change(v) for k, v in p.values.items()}) for p in photos
        ]

    before = compare(reference, current, 0.05)
    for change in (lambda value: 1000 * value + 3, lambda value: math.atan(value)):
        after = compare(changed(reference, change), changed(current, change), 0.05)
        assert [one.p for one in after.comparisons] == [one.p for one in before.comparisons]


@pytest.mark.parametrize("statistic", ["brightness", "expected_dice", "height"])
@pytest.mark.parametrize("moved", [VIEWS, VIEWS[1:2]])
def test_what_moved_is_found_and_named(statistic: str, moved: Sequence[str]) -> None:
    reference, current = groups(np.random.default_rng(10), 30, 20)
    for one in current:
        if one.view in moved:
            one.values[statistic] -= 12
    found = compare(reference, current, 0.05)
    assert found.verdict == "drift"
    assert {one.statistic for one in found.moved} == {statistic}
    assert {one.view for one in found.moved} >= set(moved)
    assert all(one.difference < -found.limit and one.current < one.reference for one in found.moved)
    assert found.p == min(one.p for one in found.comparisons)


def test_the_order_of_photographs_makes_no_difference() -> None:
    reference, current = groups(np.random.default_rng(6), 12, 9)
    assert compare(reference, current, 0.05) == compare(reference[::-1], current[::-1], 0.05)


def test_few_objects_can_t_tell_and_more_can() -> None:
    random = np.random.default_rng(7)
    verdicts = [compare(*groups(random, held, new), 0.05).verdict for held, new in ((2, 6), (40, 1), (6, 3), (30, 20))]
    assert verdicts[:3] == ["unclear"] * 3
    assert verdicts[3] in ("no drift", "drift")
    reference, current = groups(random, 4, 2)
    for one in current:
        one.values.update(dict.fromkeys(NAMES, 99.0))
    assert compare(reference, current, 0.05).verdict == "unclear"


def test_names_tell_views_or_nothing() -> None:
    views = {"01", "02"}
    assert identify(["a_01.jpg", "day/b_02.png"], views) == {
        "a_01.jpg": Place("a", "01"),
        "day/b_02.png": Place("day/b", "02"),
    }
    assert identify(["a_01.jpg", "a_77.jpg", "logo.png"], views) == {"a_01.jpg": Place("a", "01")}
    assert identify(["IMG_7.jpg", "x/y.png"], views) == {"IMG_7.jpg": Place("IMG_7", ANY), "x/y.png": Place("x/y", ANY)}


def test_without_views_one_photograph_stands_for_each_object() -> None:
    reference, _ = groups(np.random.default_rng(8), 9, 1)
    chosen = comparable(reference, {ANY})
    assert [one.view for one in chosen] == [ANY] * 9
    assert {one.object for one in chosen} == {f"h{i}" for i in range(9)}
    assert chosen == comparable(reference[::-1], {ANY})
    assert len({one.image[-2:] for one in chosen}) > 1  # not the same view of all
    assert comparable(reference, {"02"}) == [one for one in reference if one.view == "02"]


def test_nothing_is_unusual_beside_a_single_photograph() -> None:
    reference, current = groups(np.random.default_rng(8), 1, 1)
    _, away = Usual(reference).furthest(current[0].view, current[0].values)
    assert away == 0


def test_the_most_unusual_figure_is_the_furthest_of_its_view() -> None:
    reference, current = groups(np.random.default_rng(9), 50, 1)
    usual, one = Usual(reference), current[0]
    values = np.array([[p.values[name] for name in NAMES] for p in reference if p.view == one.view])
    one.values["height"] = float(values[:, NAMES.index("height")].mean() - 40 * values[:, NAMES.index("height")].std())
    name, away = usual.furthest(one.view, one.values)
    assert (name, round(away)) == ("height", -40)
