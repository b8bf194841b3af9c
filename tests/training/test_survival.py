"""What a killed, damaged or starved training does: it goes on, to the same bits."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from backdrop.common import outputs, storage
from backdrop.common.errors import MemberError, StorageError, TrainingError
from backdrop.data.folds import read_plan
from backdrop.inference.member import MemberRecord, read_member
from backdrop.steps.train import train
from backdrop.training import trainer
from backdrop.training.checkpoint import Checkpoint, Progress, pieces
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.samples import Samples
from backdrop.training.state import State
from backdrop.training.step import Batch
from tests.conftest import NEEDS_TIMM, SMALL, small_disk

# Three epochs of all that has a memory: momentum, a running mean, replayed batches, several batches a step, cycles.
EVERYTHING = (
    *SMALL,
    "epochs=3",
    "batch_size=1",
    "accumulate=2",
    "ema=0.9",
    "replay_every=2",
    "snapshots=2",
    "schedule=[{kind: cycle, epochs: 3, lrs: [0.01, 0.001]}]",
    "augmentation=[{kind: affine}, {kind: hsv}]",
    "checkpoint.every_steps=1",
)
HALF_FIRST = (
    "schedule=[{kind: constant, epochs: 1, lr: 0.01, scale: 0.5}, {kind: cycle, epochs: 2, lrs: [0.01, 0.001]}]"
)
TIMM = "network={kind: timm_unet, encoder: convnext_atto, width: 2}"
RUN = """
import sys
from backdrop.steps.train import train
data, plan, out, *overrides = sys.argv[1:]
train(data, plan, "tiny", 0, out, overrides)
"""


def start(data: Path, plan: Path, out: Path, overrides: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", RUN, str(data), str(plan), str(out), *overrides]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoints/[0-9]*"))


def kill_at(process: "subprocess.Popen[bytes]", out: Path, delay_s: float, writing: bool) -> None:
    """Kills a training some time after its first checkpoint, or then as soon as another one is being written."""
    while not checkpoints(out) and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay_s)
    while writing and process.poll() is None and not list(out.glob("checkpoints/.backdrop.[0-9]*")):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()


def metrics(out: Path) -> list[tuple[int, float, float, float]]:
    return [(row["epoch"], row["lr"], row["loss"], row["dice"]) for row in read_member(out).history()]


def kill_again_and_again(
    data: Path, plan: Path, tmp_path: Path, kills: int, seed: int, settings: tuple[str, ...] = EVERYTHING
) -> None:
    """Kills a run at random moments until it has been killed so often in all, beginning anew whenever it ended."""
    whole = train(str(data), str(plan), "tiny", 0, str(tmp_path / "whole"), settings).member
    chance, killed, round_ = random.Random(seed), 0, 0
    while killed < kills:
        out, before, round_ = tmp_path / f"killed-{round_}", killed, round_ + 1
        while killed < kills and killed - before < 4:
            process = start(data, plan, out, settings)
            kill_at(process, out, chance.uniform(0, 0.3), writing=chance.random() < 0.3)
            if (out / "member.json").exists():
                break
            killed += 1
        resumed = train(str(data), str(plan), "tiny", 0, str(out), settings).member
        assert resumed.weights == whole.weights
        assert metrics(out) == metrics(tmp_path / "whole")
        if killed > before:
            assert resumed.resumed_at
            assert min(resumed.resumed_at) > 0


@pytest.fixture
def longer(data: Path) -> Path:
    """More photographs, so that an epoch has enough steps to be killed at."""
    for source in sorted((data / "train").glob("*.jpg")):
        car, view = source.stem.split("_")
        for copy in (3, 4, 5, 6):
            name = f"{car}_{int(view) + 2 * copy:02d}"
            shutil.copy(source, data / "train" / f"{name}.jpg")
            shutil.copy(data / "train_masks" / f"{source.stem}_mask.png", data / "train_masks" / f"{name}_mask.png")
    return data


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="host"),
        pytest.param((HALF_FIRST,), id="half size first", marks=pytest.mark.slow),
        pytest.param(("compute.augment=device", "loading.cache=device"), id="device", marks=pytest.mark.thorough),
        pytest.param((TIMM,), id="a timm encoder", marks=NEEDS_TIMM),
    ],
)
def test_a_killed_run_resumes_and_ends_with_the_same_weights(
    longer: Path, plan: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    kill_again_and_again(longer, plan, tmp_path, 4, 0, (*EVERYTHING, *more))


@pytest.mark.slow
def test_forty_kills_change_no_bit(longer: Path, plan: Path, tmp_path: Path) -> None:
    kill_again_and_again(longer, plan, tmp_path, kills=40, seed=1)


@pytest.fixture
def unfinished(kept_checkpoints: None, data: Path, plan: Path, tmp_path: Path) -> tuple[Path, MemberRecord]:
    """A training with its last two checkpoints, and what it comes to."""
    out = tmp_path / "m"
    whole = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING).member
    (out / "member.json").unlink()
    return out, whole


def damages(newest: Path) -> Iterator[str]:
    """Damages the newest checkpoint, one way after another, and mends it again."""
    chance = random.Random(0)
    whole = {path: path.read_bytes() for path in newest.iterdir() if path.name != outputs.INVENTORY}
    for path, data in whole.items():
        for _ in range(2):
            bits = bytearray(data)
            bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
            path.write_bytes(bits)
            yield f"a bit of {path.name}"
            path.write_bytes(data[: chance.randrange(len(data))])
            yield f"{path.name} cut short"
        path.unlink()
        yield f"no {path.name}"
        path.write_bytes(data)
    shutil.rmtree(newest)
    yield "nothing at all"


def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(
    unfinished: tuple[Path, MemberRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = unfinished
    older, newest = checkpoints(out)
    count = 0
    for what in damages(newest):
        checkpoint = CheckpointStore(out / "checkpoints").read()
        assert checkpoint is not None
        assert checkpoint.progress.step == int(older.name.split("-")[1]), what
        assert f"{newest} is damaged" in capsys.readouterr().err, what
        count += 1
    assert count >= 20


def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_weights(
    unfinished: tuple[Path, MemberRecord], data: Path, plan: Path
) -> None:
    out, whole = unfinished
    older, newest = checkpoints(out)
    (newest / "weights.safetensors").write_bytes(b"")
    resumed = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING).member
    assert resumed.resumed_at == (int(older.name.split("-")[1]),)
    assert resumed.weights == whole.weights


def test_the_last_two_checkpoints_are_in_s3_also_after_a_move_to_another_machine(bucket: str, tmp_path: Path) -> None:
    def put(machine: str, step: int) -> CheckpointStore:
        store = CheckpointStore(tmp_path / machine, f"{bucket}/checkpoints")
        progress = Progress(key="k", step=step)
        weights = {"a": torch.full((2,), float(step))}
        store.write(Checkpoint(progress, weights, {}, [], {"state": {}, "param_groups": []}))
        return store

    put("first", 10)
    put("first", 20)
    put("second", 30)
    storage.write_bytes(f"{bucket}/checkpoints/00000-00000030/weights.safetensors", b"")
    found = CheckpointStore(tmp_path / "third", f"{bucket}/checkpoints").read()
    assert found is not None
    assert found.progress.step == 20
    assert put("third", 25).names() == {"00000-00000025", "00000-00000030"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pieces_are_the_bytes_of_safetensors(layout: torch.memory_format) -> None:
    image = torch.rand(2, 3, 5, 7).to(memory_format=layout)
    weights = {
        "b.\u00e9": image,
        "a": torch.rand(3),
        "seen": torch.tensor(7),
        "step": torch.tensor(2.5),
        "z": torch.rand(0),
    }
    assert b"".join(pieces(weights)) == save({name: tensor.contiguous() for name, tensor in weights.items()})
    assert b"".join(pieces({})) == save({})


def test_if_all_checkpoints_are_damaged_training_does_not_silently_start_over(
    unfinished: tuple[Path, MemberRecord], data: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = unfinished
    for folder in checkpoints(out):
        shutil.rmtree(folder)
    with pytest.raises(MemberError, match=r"All checkpoints in .* are damaged\. Start again with --fresh"):
        train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING)
    anew = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING, fresh=True).member
    assert "Discarding the training at epoch-step 00003-" in capsys.readouterr().err
    assert anew.resumed_at == ()
    assert anew.weights == whole.weights
    again = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING, fresh=True)
    assert not again.reused
    assert "Discarding" in capsys.readouterr().err


def test_a_checkpoint_resumes_with_the_number_of_threads_it_was_made_with(
    unfinished: tuple[Path, MemberRecord], data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = unfinished
    shutil.rmtree(checkpoints(out)[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        resumed = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING).member
    finally:
        torch.set_num_threads(before)
    assert resumed.threads == whole.threads == before
    assert resumed.weights == whole.weights


def test_checkpoints_do_not_change_a_member(data: Path, plan: Path, tmp_path: Path) -> None:
    often = train(str(data), str(plan), "tiny", 0, str(tmp_path / "a"), (*SMALL, "checkpoint.every_steps=1")).member
    seldom = train(str(data), str(plan), "tiny", 0, str(tmp_path / "b"), SMALL).member
    assert (often.key, often.weights) == (seldom.key, seldom.weights)
    header = (tmp_path / "a" / "weights.safetensors").read_bytes()
    assert "__metadata__" not in json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


def test_a_full_disk_costs_checkpoints_but_not_the_training(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(str(data), str(plan), "tiny", 0, str(tmp_path / "whole"), EVERYTHING).member
    out, room = tmp_path / "m", tmp_path / "full"
    with small_disk(room, "64k"):
        out.mkdir()
        (out / "checkpoints").symlink_to(room)
        (room / "ballast").write_bytes(b"x" * 60_000)
        full = train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING).member
        said = capsys.readouterr().err
        assert "training continues" in said
        assert "No space left on device" in said
        assert full.weights == whole.weights
        assert not [path for path in room.rglob("*") if path.name not in ("ballast", "index.json")]


def after_the_last_epoch(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = trainer.Trainer.fit

    def fit_and_act(*args: object) -> object:
        state = fit(*args)  # type: ignore[arg-type]
        act()
        return state

    monkeypatch.setattr(trainer.Trainer, "fit", fit_and_act)


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_work_is_kept(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m"
    with small_disk(out, "4m"):
        after_the_last_epoch(lambda: (out / "ballast").write_bytes(bytes(shutil.disk_usage(out).free)), monkeypatch)
        with pytest.raises((StorageError, OSError), match="No space left on device"):
            train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING)
        assert not (out / "member.json").exists()
        monkeypatch.undo()
        (out / "ballast").unlink()
        assert train(str(data), str(plan), "tiny", 0, str(out), EVERYTHING).member.resumed_at


def test_metrics_that_the_last_epoch_could_not_write_are_written_with_the_member(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m"
    end_epoch = State.end_epoch

    def end_without_room(state: State, *args: Any) -> None:
        end_epoch(state, *args)
        (out / "metrics.jsonl").unlink()
        (out / "metrics.jsonl").mkdir()  # as if its disk had a moment of trouble

    monkeypatch.setattr(State, "end_epoch", end_without_room)
    after_the_last_epoch((out / "metrics.jsonl").rmdir, monkeypatch)
    made = train(str(data), str(plan), "tiny", 0, str(out), [*SMALL, "epochs=1"]).member
    assert len(read_member(out).history()) == made.epochs == 1
    assert train(str(data), str(plan), "tiny", 0, str(out), [*SMALL, "epochs=1"]).reused


def test_sample_pictures_that_cannot_be_written_fail_no_member(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    after_the_last_epoch(lambda: (out / "samples").write_text("mine"), monkeypatch)
    made = train(str(data), str(plan), "tiny", 0, str(out), SMALL)
    assert "The curves and sample pictures were not written" in capsys.readouterr().err
    assert read_member(out).record == made.member
    assert (out / "samples").read_text() == "mine"
    assert train(str(data), str(plan), "tiny", 0, str(out), SMALL).reused


@pytest.mark.parametrize("room", [92 * 2**10, 96 * 2**10, 128 * 2**10])  # the pictures leave nothing, or some, of it
def test_sample_pictures_that_fill_the_disk_fail_no_member(
    room: int,
    data: Path,
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "m"
    with small_disk(out, "4m"):
        after_the_last_epoch(
            lambda: (out / "ballast").write_bytes(bytes(shutil.disk_usage(out).free - room)), monkeypatch
        )
        made = train(str(data), str(plan), "tiny", 0, str(out), SMALL)
        assert "sample pictures were not written" in (said := capsys.readouterr().err)
        assert "No space left on device" in said
        assert read_member(out).record == made.member
        assert not list(out.glob("samples/*"))


class Poisoned(Samples):
    """The first photograph is no number."""

    def stream(self, epoch: int, done: int, device: torch.device) -> Iterator[list[Batch]]:
        steps = [step for later in range(epoch, self.recipe.epochs) for step in self.steps(later)][done:]
        for step, batches in zip(steps, super().stream(epoch, done, device), strict=True):
            for indices, batch in zip(step, batches, strict=True):
                if 0 in indices:
                    batch.images[indices.index(0)] = torch.nan
            yield batches


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backdrop.training.fit.Samples", Poisoned)


def test_a_nan_loss_is_reported_with_its_batch(poisoned: None, data: Path, plan: Path, tmp_path: Path) -> None:
    first = read_plan(plan).training(0)[0].image
    with pytest.raises(TrainingError, match=rf"Loss is NaN at epoch 1/\d+, step \d: .*{first}\.jpg.*on_nan=skip"):
        train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), (*SMALL, "checkpoint.every_steps=1"))


def test_a_nan_loss_can_be_skipped(
    poisoned: None, data: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), (*SMALL, "on_nan=skip")).member
    assert record.dice >= 0
    assert "Skipped a step because its loss is NaN: epoch 1/" in capsys.readouterr().err
    weights = read_member(tmp_path / "m").network().state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert all(row["loss"] > 0 for row in read_member(tmp_path / "m").history())
