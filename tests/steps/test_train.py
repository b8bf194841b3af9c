"""Members that were damaged after they were finished: `train` makes them whole again, and loses nothing of anybody."""

import shutil
from pathlib import Path

import pytest

from backdrop.common import storage
from backdrop.common.errors import StorageError
from backdrop.inference.member import read_member
from backdrop.steps.train import TrainRecord, train
from tests.conftest import SMALL


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_a_damaged_member_is_trained_again(
    data: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"

    def run(fresh: bool = False) -> TrainRecord:
        capsys.readouterr()
        return train(str(data), str(plan), "tiny", 0, str(out), SMALL, fresh=fresh)

    whole = run().member
    for name, lost, fresh in (("weights.safetensors", "metrics.jsonl", False), ("member.json", "recipe.yaml", True)):
        alter(out / name)
        (out / lost).unlink()
        altered = (out / name).read_bytes()
        again = run(fresh)
        copy = f"{name}.{storage.sha256(altered)[:8]}"
        faults = f"{lost} is missing, {name} has changed (kept as {copy})"
        assert f"Training the member in {out} again: {faults}\n" in capsys.readouterr().err
        assert (again.reused, again.member.weights) == (False, whole.weights)
        assert (out / copy).read_bytes() == altered
        assert read_member(out).record == again.member
        assert len(read_member(out).history()) == 2
    alter(out / "curves.png")
    shutil.rmtree(out / "samples")
    assert run().reused, "a member is whole without its pictures"


def test_a_changed_file_that_is_not_ours_stays(data: Path, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    train(str(data), str(plan), "tiny", 0, str(out), SMALL)
    (out / ".backdrop.json").unlink()
    alter(out / "weights.safetensors")
    altered = (out / "weights.safetensors").read_bytes()
    (out / "member.json").unlink()
    with pytest.raises(StorageError, match="exists, and Backdrop didn't write it"):
        train(str(data), str(plan), "tiny", 0, str(out), SMALL)
    assert (out / "weights.safetensors").read_bytes() == altered


def test_a_damaged_member_in_s3_is_copied_again_or_trained(
    bucket: str, data: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = f"{bucket}/m", f"{bucket}/m/weights.safetensors"

    def run() -> TrainRecord:
        capsys.readouterr()
        return train(str(data), str(plan), "tiny", 0, out, SMALL)

    record = run().member
    content = storage.read_bytes(weights)
    folder = tmp_path / "cache" / "training" / record.key
    storage.write_bytes(weights, b"mine")
    assert run().reused
    said = capsys.readouterr().err
    assert f"Copying the member in {out} again: weights.safetensors has changed (kept as weights.safetensors." in said
    assert storage.read_bytes(weights) == content
    (folder / "weights.safetensors").unlink()
    assert run().reused
    assert f"Copying the member in {folder} again: weights.safetensors is missing\n" in capsys.readouterr().err
    assert (folder / "weights.safetensors").read_bytes() == content
    shutil.rmtree(folder)
    storage.write_bytes(weights, b"mine too")
    assert run().member.weights == record.weights
    assert f"Training the member in {out} again: weights.safetensors has changed" in capsys.readouterr().err
    assert {storage.read_bytes(f"{out}/{name}") for name in storage.list_files(out) if "safetensors." in name} == {
        *(b"mine", b"mine too")
    }
    assert storage.read_bytes(weights) == content
