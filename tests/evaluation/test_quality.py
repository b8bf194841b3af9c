"""Calibration and summaries of measures, against slow references."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backdrop.evaluation import calibration
from backdrop.evaluation.calibration import calibrate, count_levels
from backdrop.evaluation.metrics import bootstrap, object_means
from backdrop.evaluation.outline import Measures
from backdrop.evaluation.quality import Details, describe, summarize_measure
from backdrop.evaluation.records import Score
from backdrop.evaluation.slices import group_order, measure_traits

PROBABILITIES = st.floats(0, 1, width=32)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60)
@given(
    SHAPES.flatmap(
        lambda shape: st.lists(
            st.tuples(arrays(np.float32, shape, elements=PROBABILITIES), arrays(bool, shape)), min_size=1, max_size=3
        )
    )
)
def test_calibration_is_that_of_a_slow_reference(photos: list[tuple[np.ndarray, np.ndarray]]) -> None:
    bins: dict[int, list[tuple[float, int]]] = {}
    for probability, truth in photos:
        for p, t in zip(probability.ravel(), truth.ravel(), strict=True):
            level = round(float(np.float32(p) * np.float32(255)))
            bins.setdefault(level // 16, []).append((level / 255, int(t)))
    gaps = {k: abs(sum(p - t for p, t in rows)) for k, rows in bins.items()}
    total = sum(map(len, bins.values()))
    between = [k for k in bins if 0 < k < 15]
    unsure = sum(len(bins[k]) for k in between)
    found = calibrate(count_levels(*photo) for photo in photos)
    assert found.error == pytest.approx(sum(gaps.values()) / total, abs=1e-12)
    assert found.unsure == unsure / total
    if unsure:
        assert found.unsure_error == pytest.approx(sum(gaps[k] for k in between) / unsure, abs=1e-12)
    else:
        assert found.unsure_error is None
    rows = [bins[k] for k in sorted(bins)]
    assert [one.pixels for one in found.bins] == list(map(len, rows))
    assert [one.probability for one in found.bins] == pytest.approx([statistics.fmean(p for p, _ in r) for r in rows])
    assert [one.product for one in found.bins] == pytest.approx([statistics.fmean(t for _, t in r) for r in rows])
    assert calibrate(count_levels(*photo) for photo in reversed(photos)) == found


def test_a_large_photograph_is_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    probability, truth = random.random((40, 30), np.float32), random.random((40, 30)) > 0.5
    whole = count_levels(probability, truth)
    monkeypatch.setattr(calibration, "PIECE", 100)
    assert (count_levels(probability, truth) == whole).all()
    assert whole.sum() == truth.size


def photo(name: str, view: int, fold: int | None, dice: float) -> Score:
    return Score(f"{name}_{view}", name, str(view), 9, fold, dice, {})


def measures(error: float | None) -> Measures:
    return Measures(0.9, 0.8, 0.5, 0.6, 0.7, error)


def test_a_summary_has_mean_interval_spread_and_worst_tenth() -> None:
    random = np.random.default_rng(1)
    scores = [photo(f"o{i}", view, None, float(random.uniform(0.9, 1))) for i in range(7) for view in range(3)]
    found = {score.image: measures(float(random.normal())) for score in scores}
    dice, error = (summarize_measure(scores, found, name) for name in ("dice", "boundary_error"))
    assert dice is not None
    assert error is not None
    values = [score.dice for score in scores]
    interval = bootstrap(object_means((score.object, score.dice) for score in scores))
    assert (dice.mean, dice.low, dice.high) == (interval.mean, interval.low, interval.high)
    assert dice.spread == pytest.approx(statistics.pstdev(values))
    assert dice.worst_tenth == pytest.approx(statistics.fmean(sorted(values)[:3]))
    sizes = sorted(abs(one.boundary_error or 0) for one in found.values())
    assert error.worst_tenth == pytest.approx(statistics.fmean(sizes[-3:]))
    assert (dice.objects, dice.images) == (7, 21)


def test_what_is_not_defined_is_left_out() -> None:
    scores = [photo("a", 1, 0, 1.0), photo("b", 1, None, 1.0)]
    levels = count_levels(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))
    found = describe(scores, {score.image: Details(measures(None), levels, {}) for score in scores})
    assert set(found) == {"oof", "holdout"}
    assert "boundary_error" not in found["oof"].measures
    assert found["oof"].measures["iou"].low is None  # a single object
    assert set(describe(scores[:1], {"a_1": Details(measures(0.0), levels, {})})) == {"oof"}


def test_edge_contrast_is_local() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    truth = np.zeros((120, 200), bool)
    truth[30:90, 40:160] = True
    image[:, :100], image[:, 100:] = 40, 200  # left and right half of the backdrop
    image[truth & (np.arange(200) < 100)], image[truth & (np.arange(200) >= 100)] = 200, 40
    found = measure_traits(image, truth)
    assert float(found["contrast"]) < 0.15  # on average, product and backdrop are about equally bright
    assert float(found["edge_contrast"]) == pytest.approx(160 / 255, abs=0.05)  # one square has both halves
    assert "edge_contrast" not in measure_traits(image, np.ones_like(truth))


def test_a_mask_that_fills_squares_of_the_grid_has_an_edge_contrast() -> None:
    image, truth = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    truth[8:16, 8:16] = True
    image[truth] = 255
    assert float(measure_traits(image, truth)["edge_contrast"]) == 1.0
    assert math.isfinite(float(measure_traits(image[:9, :9], truth[:9, :9])["edge_contrast"]))


def test_thirds_are_listed_ascending() -> None:
    assert sorted(["large", "small", "medium"], key=group_order) == ["small", "medium", "large"]
    assert sorted(["unknown", "bright", "medium", "dark"], key=group_order) == ["dark", "medium", "bright", "unknown"]
    assert sorted(["02", "01"], key=group_order) == ["01", "02"]
