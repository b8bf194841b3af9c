"""Other masks of the same photographs in the evaluation's table, paired by object."""

import json
import random
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError, DataError
from backdrop.data.dataset import open_dataset, read_mask
from backdrop.data.folds import read_plan
from backdrop.evaluation.baselines import Rival, best_member, compare, parse_baselines
from backdrop.evaluation.metrics import bootstrap
from backdrop.evaluation.records import Score
from backdrop.steps.evaluate import evaluate
from tests.conftest import SMALL

DICES = st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3), min_size=1, max_size=6)


@given(DICES)
def test_the_gain_is_paired_by_object(dices: list[list[tuple[float, float]]]) -> None:
    pairs = {f"o{i}_{view}": pair for i, views in enumerate(dices) for view, pair in enumerate(views)}
    scores = [Score(image, image[:-2], image[-1], 9, None, own, {}) for image, (own, _) in pairs.items()]
    found = compare(scores, Rival("baseline", "other", {image: other for image, (_, other) in pairs.items()}))
    gains = {f"o{i}": statistics.fmean(own - other for own, other in views) for i, views in enumerate(dices)}
    interval = bootstrap(gains)
    assert found.gain.mean == pytest.approx(interval.mean, abs=1e-12)
    assert found.dice.objects == len(dices)
    if len(dices) == 1:
        assert found.gain.low is None
    else:
        assert (found.gain.low, found.gain.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    shuffled = random.Random(0).sample(scores, len(scores))
    assert compare(shuffled, Rival("baseline", "other", {i: other for i, (_, other) in pairs.items()})) == found


def test_the_best_member_is_that_with_the_best_mean_over_objects() -> None:
    scores = [Score(image, image[0], image[1], 9, None, 0.9, {}) for image in ("a1", "a2", "b1")]
    members = {"x": {"a1": 0.9, "a2": 0.9, "b1": 0.1}, "y": {"a1": 0.5, "a2": 0.5, "b1": 0.8}, "z": {"a1": 1.0}}
    found = best_member(members, scores)
    assert found is not None
    assert found.name == "y"
    assert best_member({"x": members["x"], "z": members["z"]}, scores) is None


@pytest.mark.parametrize(
    ("texts", "words"),
    [(["folder"], "isn't NAME=FOLDER"), (["=x"], "isn't NAME"), (["a=x", "a=y"], "a is there twice")],
)
def test_what_is_no_baseline_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_baselines(texts)


@pytest.fixture
def members(trained_pair: Callable[[tuple[str, ...]], list[str]]) -> list[str]:
    return trained_pair(SMALL)


@pytest.fixture
def masks(data: Path, plan: Path, tmp_path: Path) -> Path:
    """The holdout's true masks, two pixels too wide, as another program might save them."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for row in read_plan(plan).holdout:
        mask = read_mask(data / "train_masks" / f"{row.image}_mask.png").astype(np.uint8)
        cv2.imwrite(str(folder / f"{row.image}.png"), 200 * cv2.dilate(mask, np.ones((5, 5), np.uint8)))
    return folder


def test_baselines_are_rows_of_the_report(
    data: Path, plan: Path, members: list[str], masks: Path, tmp_path: Path
) -> None:
    truth = data / "train_masks"
    given = [f"wide={masks}", f"truth={truth}"]
    found = evaluate(str(data), str(plan), members, str(tmp_path / "report"), baselines=given)
    plain = evaluate(str(data), str(plan), members, str(tmp_path / "plain"))
    best, wide, true = found.comparisons
    assert best.kind == "member"
    assert (
        found.holdout.members[best.name].dice
        == best.dice.dice
        == max(alone.dice for alone in found.holdout.members.values())
    )
    assert (true.dice.dice, true.measures["boundary_iou"].mean) == (1.0, 1.0)
    assert found.holdout.ensemble is not None
    assert true.gain.mean == pytest.approx(found.holdout.ensemble.dice - 1)
    assert 1 < wide.measures["boundary_error"].mean < 3
    assert wide.measures["nsd_4"].mean == 1
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<td>wide</td>" in page
    assert f"best member, {best.name}" in page
    assert (tmp_path / "report" / "images.csv").read_bytes() == (tmp_path / "plain" / "images.csv").read_bytes()
    assert plain.comparisons == (best,)
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["comparisons"][1]["name"] == "wide"


def test_a_baseline_that_lacks_a_mask_or_has_another_size_is_refused_before_any_work(
    data: Path, plan: Path, masks: Path, tmp_path: Path, members: list[str]
) -> None:
    def refused() -> str:
        with pytest.raises(DataError) as caught:
            evaluate(str(data), str(plan), members, str(tmp_path / "report"), baselines=[f"other={masks}"])
        assert not (tmp_path / "report").exists()
        return str(caught.value)

    first, second = sorted(masks.iterdir())
    shutil.move(second, tmp_path / second.name)
    assert f"has no mask of {second.stem}. Add {second.stem}.png, or leave other out" in refused()
    for name in (f"{second.stem}.jpg", f"{second.stem}_MASK.BMP"):
        cv2.imwrite(str(masks / name), np.zeros((48, 64), np.uint8))
        assert f"has no mask of {second.stem}: {name} is there, but a mask must be PNG or GIF" in refused()
        (masks / name).unlink()
    shutil.copy(tmp_path / second.name, masks / f"{second.stem}.jpg.png")
    assert f": {second.stem}.jpg.png is there, but isn't named {second.stem}_mask.png. Rename it" in refused()
    cv2.imwrite(str(second), np.zeros((20, 30), np.uint8))
    assert "is 30x20, but its photograph is 64x48" in refused()
    cv2.imwrite(str(first), np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))
    assert "has 256 gray levels, not two" in refused()
    assert len(open_dataset(data).photos) == 12
