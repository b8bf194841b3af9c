import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backdrop.common.errors import DataError, MemberError, PlanError
from backdrop.common.outputs import INVENTORY
from backdrop.config import find_recipe
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.inference.member import MemberRecord, MemberSpec, content_key, read_member
from backdrop.steps.train import train
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.fit import FoldJob, train_member
from backdrop.training.live_pictures import LivePictures, Show
from backdrop.training.samples import Samples, epoch_order
from backdrop.training.trainer import first_network
from tests.conftest import SMALL, another_user


def samples(data: Path, plan: Path, overrides: tuple[str, ...] = SMALL) -> Samples:
    dataset, folds = open_dataset(data), read_plan(plan)
    photos = dataset.select(row.image for row in folds.training(0))
    return Samples(photos, verify(folds, dataset), find_recipe("tiny", overrides))


def test_training_leaves_a_whole_member_folder(data: Path, plan: Path, tmp_path: Path) -> None:
    record = train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    member = read_member(tmp_path / "m")
    assert record.address == str(tmp_path / "m")
    assert record.member == member.record
    assert not record.reused
    assert {path.name for path in member.folder.iterdir()} - {INVENTORY} == {
        *("member.json", "recipe.yaml", "weights.safetensors", "metrics.jsonl", "curves.png", "samples")
    }
    history = member.history()
    assert [row["epoch"] for row in history] == [0, 1]
    assert member.record.dice == max(row["dice"] for row in history)
    assert member.record.selected_epoch == max(history, key=lambda row: row["dice"])["epoch"]
    assert len(list((member.folder / "samples").glob("*.png"))) == 4
    assert member.recipe == find_recipe("tiny", SMALL)


def test_training_learns(data: Path, plan: Path, tmp_path: Path) -> None:
    longer = (*SMALL, "epochs=40", "network.width=8")
    record = train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), longer)
    losses = [row["loss"] for row in read_member(tmp_path / "m").history()]
    assert losses[-1] < losses[0] / 2
    assert record.member.dice > 0.9


def test_a_finished_member_is_used_again(data: Path, plan: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "m-{key}")
    first = train(str(data), str(plan), "tiny", 0, out, SMALL)
    assert first.address == str(tmp_path / f"m-{first.member.key[:12]}")
    written = (Path(first.address) / "weights.safetensors").stat().st_mtime_ns
    again = train(str(data), str(plan), "tiny", 0, out, SMALL)
    assert again.reused
    assert (Path(first.address) / "weights.safetensors").stat().st_mtime_ns == written


def test_another_member_in_the_folder_is_refused(
    kept_checkpoints: None, data: Path, plan: Path, tmp_path: Path
) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    with pytest.raises(MemberError, match="holds a member of other data or settings"):
        train(str(data), str(plan), "tiny", 1, str(tmp_path / "m"), SMALL)
    (tmp_path / "m" / "member.json").unlink()
    with pytest.raises(MemberError, match="holds a member of other data or settings"):
        train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), (*SMALL, "seed=1"))


def test_the_same_training_gives_the_same_bytes(data: Path, plan: Path, tmp_path: Path) -> None:
    records = [train(str(data), str(plan), "tiny", 0, str(tmp_path / name), SMALL).member for name in "ab"]
    assert records[0].weights == records[1].weights
    other = train(str(data), str(plan), "tiny", 0, str(tmp_path / "c"), (*SMALL, "seed=1")).member
    assert other.weights != records[0].weights


def test_pictures_show_the_same_photographs_and_change_no_bit(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdrop.training.live_pictures.SHARE", 1e9)  # whatever time they take
    plain = train(str(data), str(plan), "tiny", 0, str(tmp_path / "plain"), SMALL).member
    dataset, folds = open_dataset(data), read_plan(plan)
    shown: list[tuple[str, int, tuple[int, ...]]] = []

    def trained(name: str, show: Show) -> MemberRecord:
        store = CheckpointStore(tmp_path / name / "checkpoints", None)
        spec = MemberSpec(dataset, folds, verify(folds, dataset), find_recipe("tiny", SMALL), 0)
        return train_member(FoldJob(spec, tmp_path / name, store), show).record

    drawn = trained("drawn", lambda *picture: shown.append((*picture[:2], picture[2].shape)))
    assert drawn.weights == plain.weights
    held = [row.image for row in folds.validation(0)]
    first, second = ([name for name, epoch, _ in shown if epoch == number] for number in (0, 1))
    assert first == second
    assert len(set(first)) == min(4, len(held))
    assert set(first) <= set(held)
    assert all(shape[2] == 3 for _, _, shape in shown)

    def fail(*_: object) -> None:
        raise OSError("no room")

    assert trained("failed", fail).weights == plain.weights


def test_pictures_cost_a_hundredth_of_the_time_at_most(data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = 0.0, []
    monkeypatch.setattr("backdrop.training.live_pictures.time", SimpleNamespace(monotonic=lambda: now))
    dataset, folds = open_dataset(data), read_plan(plan)
    recipe = find_recipe("tiny", (*SMALL, "epochs=200", "schedule.1.epochs=199"))

    def show(_: str, epoch: int, __: object) -> None:
        nonlocal now
        now += 2.5
        drawn.append(epoch)

    pictures = LivePictures(dataset, folds.validation(0), verify(folds, dataset), recipe, show)
    network = first_network(recipe).eval()
    for epoch in range(200):
        now += 10.0
        pictures(network, epoch)
        assert 2.5 * len(drawn) <= max(0.01 * now, 10.0)
    assert 2 <= len(set(drawn)) <= 10


def test_altered_weights_are_found(data: Path, plan: Path, tmp_path: Path) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    path = tmp_path / "m" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(MemberError, match=r"weights\.safetensors has changed since training"):
        read_member(tmp_path / "m")
    with pytest.raises(MemberError, match="is not a finished member"):
        read_member(tmp_path / "nowhere")


def test_a_member_that_may_not_be_read_is_not_to_be_trained_again(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    monkeypatch.chdir(tmp_path / "m")
    for name in ("member.json", "recipe.yaml", "weights.safetensors"):
        Path(name).chmod(0)
        with another_user(), pytest.raises(MemberError, match=rf"{name} .*Permission denied.* Check its permissions"):
            read_member(Path())
        Path(name).chmod(0o644)


@pytest.mark.parametrize(("code", "remedy"), [(errno.EIO, "Check its disk"), (errno.EMFILE, "Raise the limit of open")])
def test_a_member_that_cannot_be_read_now_is_not_to_be_trained_again(
    code: int, remedy: str, data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    whole = Path.open
    for name in ("member.json", "recipe.yaml", "weights.safetensors"):

        def fail(path: Path, *values: Any, name: str = name, **named: Any) -> Any:
            if path.name == name:
                raise OSError(code, os.strerror(code))
            return whole(path, *values, **named)

        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(MemberError, match=rf"m can't be used \(.*{name} can't be read.*\. {remedy}"):
            read_member(tmp_path / "m")


def test_the_content_key_knows_recipe_fold_version_and_the_masks_it_sees(data: Path, plan: Path) -> None:
    folds, recipe = read_plan(plan), find_recipe("tiny")
    digests = verify(folds, open_dataset(data))
    key = content_key(recipe, folds, digests, 0)
    held = folds.holdout[0].image
    assert content_key(recipe, folds, {**digests, held: ("", "")}, 0) == key, "the holdout has no say"
    others = {
        content_key(find_recipe("tiny", ["seed=1"]), folds, digests, 0),
        content_key(recipe, folds, digests, 1),
        content_key(recipe, folds, digests, 0, version="9"),
        *(
            content_key(recipe, folds, {**digests, row.image: ("", "")}, 0)
            for row in folds.rows
            if row.fold is not None
        ),
    }
    assert key not in others
    assert len(others) == 3 + sum(row.fold is not None for row in folds.rows)


def test_samples_depend_on_seed_epoch_and_index_only(data: Path, plan: Path) -> None:
    busy = (*SMALL, "augmentation=[{kind: affine, p: 1}, {kind: hsv}, {kind: brightness}]")
    first, second = samples(data, plan, busy), samples(data, plan, busy)
    _ = [second[0, i] for i in (3, 1, 1)]
    for pair, again in zip([first[0, 2], first[0, 0]], [second[0, 2], second[0, 0]], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(pair, again, strict=True))
    assert not np.array_equal(first[0, 2][0], second[1, 2][0])
    image, mask, weight = first[0, 2]
    assert image.shape == (32, 64, 3)
    assert mask.shape == (32, 64)
    assert weight == 1


def test_batches_are_of_one_size_and_see_every_sample_in_turn(data: Path, plan: Path) -> None:
    small = samples(data, plan, (*SMALL, "batch_size=3", "epochs=1"))
    steps = list(small.stream(0, 0, torch.device("cpu")))
    assert len(steps) == len(small.steps(0)) == len(read_plan(plan).training(0)) // 3
    for (batch,) in steps:
        assert batch.images.shape == (3, 3, 32, 64)
        assert batch.targets.shape == (3, 1, 32, 64)
        assert batch.targets.min() >= 0
        assert batch.targets.max() == 1
        assert batch.weights is None
    seen = [index for epoch in range(40) for order in epoch_order(7, 0, epoch, 3) for index in order]
    assert set(seen) == set(range(7))
    assert epoch_order(2, 0, 0, 8) != []
    assert sorted(epoch_order(2, 0, 0, 8)[0]) == [0, 1]


def test_a_stream_taken_up_in_the_middle_gives_the_same_batches(data: Path, plan: Path) -> None:
    busy = (*SMALL, "augmentation=[{kind: affine, p: 1}]", "epochs=3", "batch_size=1", "accumulate=2")
    whole = list(samples(data, plan, busy).stream(0, 0, torch.device("cpu")))
    again = samples(data, plan, busy)
    done = len(again.steps(0)) + 1
    later = list(again.stream(1, 1, torch.device("cpu")))
    assert len(later) == len(whole) - done
    for one, other in zip(whole[done:], later, strict=True):
        assert [len(batch.images) for batch in one] == [len(batch.images) for batch in other]
        assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))
    (once_more, *_) = again.batches(1, again.steps(1)[1], torch.device("cpu"))
    assert torch.equal(once_more.images, later[0][0].images)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimizer_trains(data: Path, plan: Path, tmp_path: Path, optimizer: str) -> None:
    one = (*SMALL, "epochs=1", f"optimizer.kind={optimizer}")
    assert train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), one).member.dice >= 0


def test_bad_input_is_named(data: Path, plan: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"The plan has no fold 5\. Use one of 0, 1"):
        train(str(data), str(plan), "tiny", 5, str(tmp_path / "m"), SMALL)
    with pytest.raises(DataError, match=r"64x48 doesn't fit into 32x32"):
        train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), (*SMALL, "input.size=32x32", "input.fit=pad"))
    assert not (tmp_path / "m" / "member.json").exists()


def test_no_metrics_line_is_lost_or_doubled_by_a_resume(
    kept_checkpoints: None, data: Path, plan: Path, tmp_path: Path
) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    (tmp_path / "m" / "member.json").unlink()
    (tmp_path / "m" / "metrics.jsonl").write_text('{"torn')
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    lines = (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


AUDIT = """
import sys
from pathlib import Path
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
from backdrop.inference.member import read_member
from backdrop.training.checkpoint_store import CheckpointStore
folder = Path(sys.argv[1])
found.clear()  # what libraries do as they are imported is theirs
assert CheckpointStore(folder / "checkpoints").read() is not None
read_member(folder).network()
assert not found, found
"""


def test_nothing_is_unpickled(kept_checkpoints: None, data: Path, plan: Path, tmp_path: Path) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), SMALL)
    subprocess.run([sys.executable, "-c", AUDIT, str(tmp_path / "m")], check=True)
