"""Dice over objects, its interval, and the files that hold them."""

import json
import math
import random
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdrop.common.errors import MemberError, StorageError
from backdrop.evaluation import metrics
from backdrop.evaluation.metrics import bootstrap, estimate, object_means, summarize
from backdrop.evaluation.records import Estimate, Score, dump_evaluation, dump_scores, read_scores
from backdrop.evaluation.slices import measure_traits, slice_groups

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=6)
DICE = st.floats(0, 1)
VALUES = st.dictionaries(NAMES, st.floats(-1, 1), min_size=1, max_size=20)


def score(image: str, dice: float, fold: int | None = 0, **recipes: float) -> Score:
    name, _, view = image.rpartition("_")
    return Score(image, name, view, 1000, fold, dice, recipes)


@st.composite
def score_lists(draw: st.DrawFn) -> list[Score]:
    folds = st.one_of(st.none(), st.integers(0, 9))
    recipes = st.dictionaries(st.sampled_from(["tiny", "image", "dice"]), st.one_of(DICE, st.just(math.nan)))
    made = st.builds(Score, NAMES, NAMES, NAMES, st.integers(0, 10**7), folds, DICE, recipes)
    return draw(st.lists(made, unique_by=lambda score: score.image))


def test_objects_count_alike_however_many_views_they_have() -> None:
    scores = [score("a_01", 0.9), score("a_02", 0.7), score("a_03", 0.8), score("b_01", 0.4)]
    assert estimate(scores).dice == pytest.approx((0.8 + 0.4) / 2)


@given(score_lists(), st.randoms(use_true_random=False))
def test_the_mean_is_that_of_a_plain_loop_in_any_order(scores: list[Score], chance: random.Random) -> None:
    if not scores:
        with pytest.raises(ValueError, match="no objects"):
            estimate(scores)
        return
    groups = defaultdict(list)
    for one in scores:
        groups[one.object].append(one.dice)
    expected = statistics.fmean(statistics.fmean(group) for group in groups.values())
    assert estimate(scores).dice == pytest.approx(expected)
    assert estimate(chance.sample(scores, len(scores))) == estimate(scores)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mean_of_nan_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a number"):
        bootstrap({"a": value, "b": 0.5})


@given(VALUES)
@example({"a": 0.0, "b": -0.0})
def test_negated_values_have_exactly_the_negated_interval(values: dict[str, float]) -> None:
    found, mirrored = bootstrap(values), bootstrap({name: -value for name, value in values.items()})
    assert (mirrored.low, mirrored.mean, mirrored.high) == (-found.high, -found.mean, -found.low)


@given(VALUES, st.randoms(use_true_random=False))
def test_the_interval_does_not_depend_on_the_order(values: dict[str, float], chance: random.Random) -> None:
    shuffled = dict(chance.sample(list(values.items()), len(values)))
    assert bootstrap(shuffled) == bootstrap(values)


@given(VALUES)
def test_the_interval_lies_within_the_values_around_their_mean(values: dict[str, float]) -> None:
    found, slack = bootstrap(values), 1e-12
    assert min(values.values()) - slack <= found.low <= found.mean + slack
    assert found.mean - slack <= found.high <= max(values.values()) + slack


@pytest.mark.parametrize("count", [5, 12, 16, 60])
def test_the_interval_agrees_with_a_slow_reference(count: int) -> None:
    chance = random.Random(count)
    values = {f"car{i}": chance.gauss(0.001, 0.004) for i in range(count)}
    means = sorted(statistics.fmean(chance.choices(list(values.values()), k=count)) for _ in range(20_000))
    t = {5: 2.7764, 12: 2.2010, 16: 2.1314, 60: 2.0010}[count]  # 97.5 % quantiles, from a printed table
    share = statistics.NormalDist().cdf(-t * math.sqrt(count / (count - 1)))
    found, width = bootstrap(values), means[-1] - means[0]
    assert found.low == pytest.approx(means[round(share * 20_000)], abs=0.03 * width)
    assert found.high == pytest.approx(means[-1 - round(share * 20_000)], abs=0.03 * width)
    assert found.mean == pytest.approx(statistics.fmean(values.values()))


def test_few_objects_get_a_wider_interval_than_plain_percentiles() -> None:
    values = {f"car{i}": value for i, value in enumerate(np.random.default_rng(3).normal(size=12).tolist())}
    draws = np.random.default_rng(4).choice(list(values.values()), (10_000, 12)).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    interval = bootstrap(values)
    assert interval.low < low
    assert interval.high > high


def test_draws_in_many_chunks_are_as_good_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"car{i}": float(i) for i in range(30)}
    whole = bootstrap(values)
    monkeypatch.setattr(metrics, "CHUNK", 7_000)
    parts = bootstrap(values)
    assert parts.low == pytest.approx(whole.low, abs=0.3)
    assert parts.high == pytest.approx(whole.high, abs=0.3)


def test_summarize_gives_the_figures_of_each_recipe_and_member() -> None:
    scores = [
        score("a_01", 0.96, 0, tiny=0.9, big=0.95),
        score("a_02", 0.98, 0, tiny=0.8, big=0.97),
        score("b_01", 0.94, 1, tiny=0.7),
        score("c_01", 0.92, None, tiny=0.5, big=0.5),
        score("c_02", 0.90, None, tiny=0.5, big=0.5),
        score("d_01", 0.81, None, tiny=0.5, big=0.5),
    ]
    alone = {"tiny-0": {"c_01": 0.9, "c_02": 0.8, "d_01": 0.7}, "big-1": {"d_01": 0.5, "c_02": 0.3, "c_01": 0.1}}
    evaluation = summarize(scores, alone, "m", "p")
    assert evaluation.oof["tiny"].dice == pytest.approx((0.85 + 0.7) / 2)
    assert evaluation.oof["tiny"].objects == 2
    assert evaluation.oof["big"].dice == pytest.approx(0.96)
    assert evaluation.oof["big"].objects == 1
    assert evaluation.oof_ensemble is not None
    assert evaluation.oof_ensemble.dice == pytest.approx((0.97 + 0.94) / 2)
    ensemble = evaluation.holdout.ensemble
    assert ensemble is not None
    assert ensemble.dice == pytest.approx((0.91 + 0.81) / 2)
    assert evaluation.holdout.objects == 2
    assert ensemble.low is not None
    assert ensemble.high is not None
    assert ensemble.low < ensemble.dice < ensemble.high
    assert list(evaluation.holdout.members) == ["big-1", "tiny-0"]
    assert evaluation.holdout.members["tiny-0"] == Estimate(dice=evaluation.holdout.members["tiny-0"].dice, objects=2)
    assert evaluation.holdout.members["tiny-0"].dice == pytest.approx((0.85 + 0.7) / 2)


def test_summarize_without_a_holdout_says_so() -> None:
    written = json.loads(dump_evaluation(summarize([score("a_01", 0.9, 0, tiny=0.9)], {"tiny-0": {}}, "m", "p")))
    assert written["holdout"] == {"ensemble": None, "members": {}, "objects": 0}
    assert written["oof"] == {"tiny": {"dice": 0.9, "objects": 1, "low": None, "high": None}}


def test_one_object_has_no_interval() -> None:
    estimate = summarize([score("a_01", 0.9, None)], {}, "m", "p").holdout.ensemble
    assert estimate == Estimate(dice=0.9, objects=1)


@pytest.mark.parametrize(
    ("scores", "alone"),
    [
        ([score("a_01", math.nan)], {}),
        ([score("a_01", 0.9, 0, tiny=math.nan)], {}),
        ([score("a_01", math.inf, None)], {}),
        ([score("a_01", 0.9, None)], {"tiny-0": {}}),
        ([score("a_01", 0.9, None)], {"tiny-0": {"a_01": math.nan}}),
    ],
)
def test_summarize_refuses_nan(scores: list[Score], alone: dict[str, dict[str, float]]) -> None:
    with pytest.raises(MemberError, match="a_01"):
        summarize(scores, alone, "m", "p")


def test_an_estimate_is_never_nan() -> None:
    with pytest.raises(ValidationError):
        Estimate(dice=math.nan, objects=3)


@given(score_lists())
def test_scores_survive_their_file(tmp_path_factory: pytest.TempPathFactory, scores: list[Score]) -> None:
    path = tmp_path_factory.mktemp("scores") / "images.csv"
    path.write_bytes(dump_scores(scores))
    again = read_scores(path)
    assert repr(again) == repr(
        [  # repr, because a NaN equals nothing
            Score(**{**vars(one), "recipes": dict(sorted(one.recipes.items()))})
            for one in sorted(scores, key=lambda one: one.image)
        ]
    )
    assert dump_scores(again[::-1]) == path.read_bytes()


def test_the_file_reads_as_promised(tmp_path: Path) -> None:
    scores = [score("b_01", 0.1, None, tiny=1.0), score("a_01", 1 / 3, 2, big=0.5)]
    text = "image,object,view,area,fold,dice,big,tiny\n"
    text += f"a_01,a,01,1000,2,{1 / 3!r},0.5,\nb_01,b,01,1000,holdout,0.1,,1.0\n"
    assert dump_scores(scores).decode() == text


WHOLE = "image,object,view,area,fold,dice,tiny\na_01,a,01,10,0,0.5,0.5\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "columns"),
        ("image,object\n", "columns"),
        (WHOLE + "b_01,b,01,10,0\n", "5 columns, not 7"),
        (WHOLE + "b_01,b,01,10,0,1.5,0.5\n", "1.5 is not a Dice"),
        (WHOLE + "b_01,b,01,10,0,inf,0.5\n", "inf is not a Dice"),
        (WHOLE + "b_01,b,01,10,0,-0.1,0.5\n", "-0.1 is not a Dice"),
        (WHOLE + "b_01,b,01,10,0,x,0.5\n", "could not convert"),
        (WHOLE + "b_01,b,01,ten,0,0.5,0.5\n", "ten"),
        (WHOLE + "b_01,b,01,10,train,0.5,0.5\n", "train"),
        (WHOLE + "a_01,a,01,10,0,0.5,0.5\n", "a_01 twice"),
        (WHOLE + '"b_01,b', "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "images.csv"
    path.write_text(text)
    with pytest.raises(StorageError, match=r"images\.csv is damaged") as caught:
        read_scores(path)
    assert fault in str(caught.value)


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="is damaged"):
        read_scores(tmp_path / "images.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none.csv can't be read"):
        read_scores(tmp_path / "none.csv")


def test_objects_are_sorted_by_name() -> None:
    assert list(object_means([("b", 1.0), ("a", 0.0), ("b", 0.0)]).items()) == [("a", 0.0), ("b", 0.5)]


def test_an_objects_mean_does_not_depend_on_the_order_of_its_images() -> None:
    values = [0.1, 0.2, 0.3, 1e-17, 0.7]
    assert object_means([("a", v) for v in values]) == object_means([("a", v) for v in reversed(values)])
    assert object_means([("a", 1.0), ("a", 1e-16), ("a", 1e-16)])["a"] * 3 > 1


def test_traits_are_those_of_product_and_backdrop() -> None:
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), rng.random((20, 30)) < 0.3
    inside, outside = [np.array([image[y, x] for y, x in np.argwhere(where)]) / 255 for where in (truth, ~truth)]
    distance = math.sqrt(statistics.fmean((inside.mean(0) - outside.mean(0)) ** 2))
    expected = {"brightness": f"{inside.mean():.4f}", "contrast": f"{distance:.4f}"}
    assert {"edge_contrast": measure_traits(image, truth)["edge_contrast"], **expected} == measure_traits(image, truth)


@pytest.mark.parametrize(
    ("product", "backdrop", "expected"),
    [
        ((255, 255, 255), (0, 0, 0), {"brightness": "1.0000", "contrast": "1.0000", "edge_contrast": "1.0000"}),
        ((90, 90, 90), (90, 90, 90), {"brightness": "0.3529", "contrast": "0.0000", "edge_contrast": "0.0000"}),
        # Equally bright, yet far apart.
        ((255, 0, 0), (0, 255, 0), {"brightness": "0.3333", "contrast": "0.8165", "edge_contrast": "0.8165"}),
    ],
)
def test_contrast_is_of_colors_not_only_of_brightness(
    product: tuple[int, ...], backdrop: tuple[int, ...], expected: dict[str, str]
) -> None:
    truth = np.zeros((8, 8), bool)
    truth[2:5, 1:4] = True
    image = np.where(truth[..., None], product, backdrop).astype(np.uint8)
    assert measure_traits(image, truth) == expected
    assert measure_traits(image, ~np.zeros_like(truth)).keys() == {"brightness"}
    assert measure_traits(image, np.zeros_like(truth)) == {}


def test_numbers_are_grouped_into_thirds_and_other_values_as_they_are() -> None:
    values = [str(value) for value in (9, 1, 5, 2, 8, 7, 3, 4, 6)]
    scores = [
        replace(score(f"a{i}_0{i % 2}", 0.9), area=int(value), traits={"brightness": value, "year": f"{value}.5"})
        for i, value in enumerate(values)
    ]
    thirds = [(int(value) - 1) // 3 for value in values]
    assert slice_groups(scores, "area") == [("small", "medium", "large")[third] for third in thirds]
    assert slice_groups(scores, "brightness") == [("dark", "medium", "bright")[third] for third in thirds]
    assert slice_groups(scores, "year") == [("low", "medium", "high")[third] for third in thirds]
    assert slice_groups(scores, "view") == [f"0{i % 2}" for i in range(9)]
    make = [replace(one, traits={"make": name} if name else {}) for one, name in zip(scores, "fofo f1fo", strict=True)]
    make[4] = replace(make[4], traits={})
    assert slice_groups(make, "make") == ["f", "o", "f", "o", "unknown", "f", "1", "f", "o"]


def test_a_missing_number_is_a_group_of_its_own() -> None:
    scores = [replace(score(f"a{i}_01", 0.9), traits={"year": str(2000 + i)} if i else {}) for i in range(7)]
    assert slice_groups(scores, "year") == ["unknown", "low", "low", "medium", "medium", "high", "high"]


def test_few_different_numbers_are_groups_themselves() -> None:
    scores = [replace(score(f"a{i}_01", 0.9), traits={"doors": str(2 + i % 3)}) for i in range(6)]
    assert slice_groups(scores, "doors") == ["2", "3", "4", "2", "3", "4"]


def test_traits_survive_the_file_between_fold_and_dice(tmp_path: Path) -> None:
    scores = [
        replace(score("a_01", 0.5, tiny=0.5), traits={"make": "a,b", "brightness": "0.1234"}),
        replace(score("b_01", 0.25, None), recipes={"dice": 0.25}, traits={"make": "c"}),
    ]
    path = tmp_path / "images.csv"
    path.write_bytes(dump_scores(scores))
    assert path.read_text().splitlines()[:2] == [
        "image,object,view,area,fold,brightness,make,dice,dice,tiny",
        'a_01,a,01,1000,0,0.1234,"a,b",0.5,,0.5',
    ]
    assert read_scores(path) == scores
