"""One member trained by two processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from backdrop.common.errors import ConfigError
from backdrop.inference.member import read_member
from backdrop.steps.train import train
from backdrop.training.distributed import Distributed
from tests.conftest import SMALL
from tests.training.test_fit import samples

# VGG's U-Net has no batch norm, whose statistics would be each process's own; SGD doesn't blow up a rounding.
SHARED = (
    *(override for override in SMALL if not override.startswith("network")),
    "input.size=64x64",
    "network={kind: vgg_unet, width: 2, encoder_width: 2}",
    "epochs=3",
    "batch_size=3",
    "schedule=[{kind: constant, epochs: 1, lr: 0.05, scale: 0.5}, {kind: constant, epochs: 2, lr: 0.05}]",
    "optimizer={kind: sgd, clip_norm: 1.0}",
    "augmentation=[{kind: affine}]",
    "checkpoint.every_steps=1",
    "compute.precision=fp32",
)


def torchrun(data: Path, plan: Path, out: Path, overrides: tuple[str, ...] = SHARED) -> "subprocess.Popen[bytes]":
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--module", "backdrop", "train", str(data), "--plan", str(plan), "--recipe", "tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--fold", "0", "--out", str(out), *sets], env=environment)


def kill_all(out: Path) -> None:
    """Kills each process that has this member folder on its command line: torchrun and those that it started."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has gone
            if str(out).encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)


def test_two_processes_train_the_weights_of_one(data: Path, plan: Path, tmp_path: Path) -> None:
    alone = train(str(data), str(plan), "tiny", 0, str(tmp_path / "one"), SHARED)
    assert torchrun(data, plan, tmp_path / "two").wait() == 0
    together = read_member(tmp_path / "two")
    assert (together.record.key, together.record.processes) == (alone.member.key, 2)
    one, two = (read_member(tmp_path / name).network().state_dict() for name in ("one", "two"))
    start = [row["loss"] for row in read_member(tmp_path / "one").history()]
    assert start[-1] < start[0]
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], rtol=1e-4, atol=1e-5)
    for row, other in zip(read_member(tmp_path / "one").history(), together.history(), strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
        assert other["dice"] == pytest.approx(row["dice"], abs=1e-3)


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_same_bits(data: Path, plan: Path, tmp_path: Path) -> None:
    longer = (*SHARED, "epochs=20", "schedule=[{kind: constant, epochs: 20, lr: 0.05}]")
    assert torchrun(data, plan, tmp_path / "whole", longer).wait() == 0
    whole = read_member(tmp_path / "whole").record
    for delay_s in (0.0, 0.1, 0.2):
        out = tmp_path / f"killed-{delay_s}"
        process = torchrun(data, plan, out, longer)
        while not list(out.glob("checkpoints/[0-9]*")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay_s)
        kill_all(out)
        process.wait()
        assert not (out / "member.json").exists()
        assert torchrun(data, plan, out, longer).wait() == 0
        resumed = read_member(out).record
        assert resumed.resumed_at
        assert resumed.resumed_at[0] > 0
        assert resumed.weights == whole.weights


def test_work_is_shared_and_put_together_again_in_its_order() -> None:
    parts = [Distributed(rank, 3).shard(range(8)) for rank in range(3)]
    assert [list(part) for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_a_batch_needs_an_image_for_each_process(data: Path, plan: Path) -> None:
    one = samples(data, plan)
    with pytest.raises(ConfigError, match="9 processes can't share a batch of 2"):
        type(one)(one.photos, one.decoded.digests, one.recipe, (), Distributed(0, 9))


def test_the_parts_of_a_batch_weigh_as_the_whole(data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distributed, "barrier", lambda _: None)  # both are this process
    one = samples(data, plan, (*SMALL, "batch_size=3"))
    step = one.steps(0)[0]
    (whole,) = one.batches(0, step, torch.device("cpu"))
    parts = [type(one)(one.photos, one.decoded.digests, one.recipe, (), Distributed(rank, 2)) for rank in range(2)]
    batches = [part.batches(0, step, torch.device("cpu"))[0] for part in parts]
    assert [len(batch.images) for batch in batches] == [2, 1]
    assert [batch.scale() / 2 for batch in batches] == pytest.approx([2 / 3, 1 / 3])
    assert all(batch.weight() == whole.weight() == 3 for batch in batches)
