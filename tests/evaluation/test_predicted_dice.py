"""The Dice that a model predicts of photographs that nobody labeled, and the interval that it promises."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mapie.regression import SplitConformalRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from backdrop.common.storage import sha256
from backdrop.config import PredictedDice
from backdrop.evaluation.predicted_dice import Known, learn, learn_and_measure, measure
from backdrop.evaluation.records import DicePrediction
from backdrop.inference.uncertainty import error_of, expected_dice, predict_dice


def photographs(random: np.random.Generator, objects: int, views: int = 4) -> list[Known]:
    """Objects of different difficulty; what a photograph expects errs by its object and by itself."""
    found = []
    for number in range(objects):
        hard = random.normal(-4.5, 0.6)
        bias = random.normal(0, 0.3) + random.exponential(0.4)
        for _ in range(views):
            error = hard + random.normal(0, 0.4)
            dice, expected = (1 - min(0.5, math.exp(value)) for value in (error, error - bias + random.normal(0, 0.2)))
            found.append(Known(f"car{number}-{random.integers(1 << 40)}", expected, dice))
        found[-views:] = [Known(found[-views].object, one.expected, one.dice) for one in found[-views:]]
    return found


def test_the_interval_holds_for_nine_in_ten_objects_never_seen() -> None:
    random, shares = np.random.default_rng(0), []
    for _ in range(200):
        rule = learn(photographs(random, 40), [])
        assert rule
        new = measure(rule, photographs(random, 50))
        assert new.right is not None
        shares.append(new.right / new.objects)
    # 19 or more of 20 in calibration order: on average between 90 % and that and one in 21 more.
    assert 0.90 <= np.mean(shares) <= 0.96


def test_the_interval_holds_though_all_members_are_better_than_one_fold_s() -> None:
    random, shares = np.random.default_rng(5), {9: [], 0: []}
    for _ in range(200):
        folded, (held, new) = photographs(random, 40), (better(photographs(random, n)) for n in (9, 50))
        for objects, found in shares.items():
            rule = learn(folded, held if objects else [])
            assert rule
            promise = measure(rule, new)
            assert promise.right is not None
            found.append(promise.right / promise.objects)
    # The largest of 9 errors: 90 % on average. What out of fold alone promises, another ensemble doesn't keep.
    assert 0.88 <= np.mean(shares[9]) <= 0.93
    assert np.mean(shares[0]) < 0.8


def better(photos: list[Known]) -> list[Known]:
    """The same photographs with half of the error that they had."""
    return [replace(one, dice=1 - (1 - one.dice) / 2) for one in photos]


@given(st.integers(0, 12))
def test_no_interval_is_judged_by_the_objects_that_it_was_made_for(objects: int) -> None:
    random = np.random.default_rng(6)
    folded, held = photographs(random, 20), photographs(random, objects)
    found = learn_and_measure(folded, held)
    assert found.rule == learn(folded, held)
    assert (found.holdout is None) == (objects == 0)
    assert found.holdout is None or (found.holdout.right is None) == (objects >= 9)


def test_the_predicted_dice_beats_the_mean() -> None:
    random = np.random.default_rng(1)
    known, new = photographs(random, 60), photographs(random, 60)
    rule = learn(known, [])
    assert rule
    found, mean = measure(rule, new), np.mean([one.dice for one in known])
    assert found.error < 0.7 * np.mean([abs(one.dice - mean) for one in new])
    assert found.width < 0.08
    dice = np.array([one.dice for one in new])
    bad = dice <= np.quantile(dice, 0.05)
    assert found.auroc == pytest.approx(roc_auc_score(bad, [-one.expected for one in new]))
    assert found.auroc > 0.8


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), min_size=2, max_size=60))
def test_the_corners_of_the_curve_enclose_the_same_area_as_all_its_points(pairs: list[tuple[int, int]]) -> None:
    photos = [Known(f"car{i}", expected / 8, dice / 50) for i, (expected, dice) in enumerate(pairs)]
    found = measure(PredictedDice(intercept=0, slope=1, spread=1), photos)
    dice = np.array([one.dice for one in photos])
    bad = dice <= np.quantile(dice, 0.05)
    if bad.all():
        assert (found.roc, found.auroc) == ((), None)
        return
    x, y, limits = np.array(found.roc).T
    area = pytest.approx(roc_auc_score(bad, [-one.expected for one in photos]))
    assert np.trapezoid(y, x) == area
    assert found.auroc == area  # of photographs doubted alike half count
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(limits) >= 0).all()
    predicted = np.array(
        [predict_dice(PredictedDice(intercept=0, slope=1, spread=1), one.expected).dice for one in photos]
    )
    for share, hits, limit in found.roc[1:]:
        assert share == pytest.approx((predicted[~bad] <= limit).mean())
        assert hits == pytest.approx((predicted[bad] <= limit).mean())


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50)), min_size=1, max_size=60))
def test_the_risk_is_the_mean_error_of_what_is_accepted(pairs: list[tuple[int, int]]) -> None:
    photos = [Known(f"car{i}", expected / 40, dice / 50) for i, (expected, dice) in enumerate(pairs)]
    rule = PredictedDice(intercept=0, slope=1, spread=1)
    predicted = np.array([predict_dice(rule, one.expected).dice for one in photos])
    points = measure(rule, photos).risks
    for share, risk, limit in points:
        accepted = predicted >= limit
        assert share == pytest.approx(accepted.mean())
        assert risk == pytest.approx(
            np.mean([1 - one.dice for one, taken in zip(photos, accepted, strict=True) if taken])
        )
    shares = [share for share, _, _ in points]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert all(sum(wanted - 0.05 < share for share in shares) for wanted in np.arange(0.05, 1.01, 0.05))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=22, max_size=90), st.floats(0, 1))
def test_with_one_photograph_of_each_object_the_interval_is_that_of_mapie(
    pairs: list[tuple[float, float]], new: float
) -> None:
    photos = [Known(f"car{number}", *pair) for number, pair in enumerate(pairs)]
    rule = learn(photos, [])
    assert rule
    kept = sorted(photos, key=lambda one: sha256(one.object.encode()))[1::2]
    line = LinearRegression().fit([[0], [1]], [rule.intercept, rule.intercept + rule.slope])
    x, y = np.log([[error_of(one.expected)] for one in kept]), np.log([error_of(one.dice) for one in kept])
    peer = SplitConformalRegressor(line, confidence_level=0.9, conformity_score="absolute", prefit=True)
    _, intervals = peer.conformalize(x, y).predict_interval(np.log([[error_of(new)]]))
    low, high = intervals[0, :, 0]
    assert rule.spread == pytest.approx((high - low) / 2)
    found = predict_dice(rule, new)
    assert found[1:] == pytest.approx([min(1, max(0, error_of(math.exp(value)))) for value in (high, low)])


def test_with_few_objects_nothing_is_promised() -> None:
    random = np.random.default_rng(2)
    assert learn(photographs(random, 17), photographs(random, 8)) is None
    assert learn(photographs(random, 18), []) is not None
    assert learn(photographs(random, 2), photographs(random, 9)) is not None
    assert learn([], photographs(random, 9)) is None
    assert learn_and_measure([], []) == DicePrediction(rule=None, holdout=None)


def test_the_order_of_photographs_does_not_matter() -> None:
    known, held = photographs(np.random.default_rng(3), 20), photographs(np.random.default_rng(4), 9)
    for some in (held, held[:4]):
        rule = learn(known, some)
        assert rule is not None
        assert rule == learn(known[::-1], some[::-1])


def test_photographs_that_are_all_alike_are_level() -> None:
    rule = learn([Known(f"car{number}", 0.99, 0.98) for number in range(30)], [])
    assert rule
    assert rule.slope == 0
    assert rule.spread == pytest.approx(0, abs=1e-9)
    assert predict_dice(rule, 0.5) == pytest.approx((0.98, 0.98, 0.98))
    wide = rule.model_copy(update={"spread": 0.01})
    assert measure(wide, [Known("a", 0.9, 0.98), Known("b", 0.9, 0.9), Known("b", 0.9, 0.98)]).right == 1


@given(
    *(st.floats(-20, 20), st.floats(0, 5), st.floats(0, 10), st.floats(0, 1)),
)
def test_the_interval_has_the_dice_and_lies_between_0_and_1(
    intercept: float, slope: float, spread: float, expected: float
) -> None:
    found = predict_dice(PredictedDice(intercept=intercept, slope=slope, spread=spread), expected)
    assert 0 <= found.low <= found.dice <= found.high <= 1


@given(arrays(np.float32, (7, 5), elements=st.floats(0, 1, width=32)))
def test_the_expected_dice_is_the_sum_by_hand(probability: np.ndarray) -> None:
    mask = probability > 0.5
    pairs: Sequence[tuple[float, bool]] = list(zip(probability.ravel().tolist(), mask.ravel().tolist(), strict=True))
    inside, total = math.fsum(p for p, m in pairs if m), math.fsum(p + m for p, m in pairs)
    assert expected_dice(probability, mask) == pytest.approx(2 * inside / total if total else 1.0)


def test_a_certain_mask_expects_all() -> None:
    mask = np.eye(6, dtype=bool)
    assert expected_dice(mask.astype(np.float32), mask) == 1
    assert expected_dice(np.zeros((3, 3), np.float32), np.zeros((3, 3), bool)) == 1
