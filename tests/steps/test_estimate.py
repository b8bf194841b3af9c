import math
from pathlib import Path

import pytest

from backdrop.common.errors import DataError, StorageError, TrainingError
from backdrop.config import find_ensemble, find_recipe
from backdrop.data.dataset import open_dataset
from backdrop.data.digests import content_digests
from backdrop.steps.estimate import afford, estimate, makespan
from backdrop.training import throughput
from backdrop.training.throughput import measure
from tests.conftest import SMALL

ENSEMBLE = """
name: small
folds: {count: 2, holdout: 0.5}
members:
  - {recipe: tiny, set: {epochs: 30, input.size: 64x32, network.width: 4, network.depth: 2, batch_size: 2}}
  - recipe: tiny-linknet
    folds: {count: 3}
    set: {epochs: 10, input.size: 64x32, network.width: 8, batch_size: 2, replay_every: 2}
"""


def test_an_ensemble_is_estimated_by_what_was_measured(data: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(ENSEMBLE)
    record = estimate(str(data), str(tmp_path / "small.yaml"), seconds=0.2)
    assert [(cost.recipe, cost.members) for cost in record.recipes] == [("tiny", 2), ("tiny-linknet", 3)]
    tiny, linknet = record.recipes
    for cost, trained, judged in ((tiny, 30 * 3, 31 * 3), (linknet, 10 * 4 * 1.5, 11 * 2)):  # 6 of 12 photographs
        assert 0 < cost.memory < 2**35
        assert cost.hours == pytest.approx((trained / cost.training + judged / cost.judging) / 3600)
    assert record.device_hours == pytest.approx(2 * tiny.hours + 3 * linknet.hours)
    assert list(record.hours) == [1, 2, 4, 5]
    assert record.hours[1] == pytest.approx(record.device_hours)
    assert record.hours[5] == max(tiny.hours, linknet.hours)
    afford(record, 1.01 * record.device_hours)
    with pytest.raises(TrainingError, match=r"small takes .* hours of one cpu, more than 0"):
        afford(record, 0)


def test_an_ensemble_is_proposed_by_what_was_measured(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "auto.yaml"
    record = estimate(str(data), seconds=0.2, out=str(out))
    ensemble = find_ensemble(str(out))
    assert [cost.members for cost in record.recipes] == [ensemble.folds.count]
    assert record.device_hours <= 1
    assert out.read_text().startswith(f"# {record.reasons[0]}\n")
    out.write_text("name: mine\n")
    with pytest.raises(StorageError, match="exists, and it isn't a proposed ensemble that Backdrop wrote"):
        estimate(str(data), out=str(out))


def test_the_phases_of_another_size_are_measured_on_their_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = list(open_dataset(data).photos.values())[:2]
    recipe = find_recipe("tiny", (*SMALL, "schedule.0.scale=0.5", "schedule.0.epochs=3", "schedule.1.epochs=1"))
    paces = {0.5: 40.0, 1.0: 10.0}
    monkeypatch.setattr(throughput, "_pace", lambda recipe, *_: paces[recipe.schedule[0].scale])
    four = throughput._measure(recipe.model_copy(update={"epochs": 4}), photos, content_digests(photos), 0.1, math.inf)
    assert four.training == pytest.approx(4 / (3 / 40 + 1 / 10))
    one = throughput._measure(recipe.model_copy(update={"epochs": 1}), photos, content_digests(photos), 0.1, math.inf)
    assert one.training == 40.0  # the shorter phase has no epoch


def test_memory_is_measured_where_there_is_no_proc(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "STATUS", tmp_path / "none")  # as on macOS
    photos = list(open_dataset(data).photos.values())[:2]
    assert throughput._measure(find_recipe("tiny", SMALL), photos, content_digests(photos), 0.1, math.inf).memory > 0


def test_members_are_spread_longest_first() -> None:
    assert makespan([1, 1, 1, 1, 4], 2) == 4
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # Graham's own example: LPT is not always the best
    assert makespan([5], 3) == 5


def test_a_recipe_that_is_too_large_is_reported(data: Path) -> None:
    photos = list(open_dataset(data).photos.values())[:2]
    small = find_recipe("tiny", SMALL)
    # Wider than a recipe may be: a network that is only too large for this machine would fill it first.
    vast = small.model_copy(update={"network": small.network.model_copy(update={"width": 1_000_000})})
    with pytest.raises(TrainingError, match="tiny at 64x32 in batches of 2 needs more memory"):
        measure(vast, photos, content_digests(photos), 0.1, math.inf)


def test_other_errors_come_through_whole(data: Path) -> None:
    photos = list(open_dataset(data).photos.values())[:2]
    digests = {photo.stem: ("0" * 64, "0" * 64) for photo in photos}
    with pytest.raises(DataError, match=r"has changed since it was first read\. Run the step again"):
        measure(find_recipe("tiny", [*SMALL, "loading.cache=none"]), photos, digests, 0.1)
