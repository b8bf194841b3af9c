"""Members whose files MLflow has lost: the run is there, its artifacts aren't, or not all, or not whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common.errors import MemberError, TrackingError
from backdrop.config import Recipe
from backdrop.config.records import parse, parse_yaml
from backdrop.steps.train import train
from backdrop.tracking.client import connect
from backdrop.tracking.members import fetch_member, find_member, run_of
from backdrop.tracking.runs import MemberRun
from tests.conftest import SMALL

KEY = "c" * 64


def upload(member: Path, fresh: bool = False) -> str:
    recipe = parse(Recipe, parse_yaml((member / "recipe.yaml").read_text(), "recipe.yaml"), "recipe.yaml")
    with MemberRun(KEY, recipe, 1, fresh) as run:
        return run.finish(member)


def delete_all(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])


LOSSES = {
    delete_all: "its files are gone from MLflow",
    delete_weights: "weights.safetensors is gone from MLflow",
    truncate_weights: "is damaged in MLflow",
}


@pytest.mark.parametrize("lose", LOSSES)
def test_a_member_that_mlflow_has_lost_is_not_reused_and_the_newest_whole_one_is(
    tracked: str,
    member: Path,
    artifacts: Callable[[str], Path],
    lose: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = upload(member)
    second = upload(member, fresh=True)
    assert find_member(KEY) == second != first
    shutil.rmtree(fetch_member(second).parent)
    lose(artifacts(run_of(second)) / "member")
    capfd.readouterr()
    assert find_member(KEY) == first
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{second} isn't reused: " in line
    assert LOSSES[lose] in line
    with pytest.raises((TrackingError, MemberError), match="Run its `backdrop train` again"):
        fetch_member(second)
    shutil.rmtree(fetch_member(first).parent)
    lose(artifacts(run_of(first)) / "member")
    assert find_member(KEY) is None
    again = upload(member)
    assert find_member(KEY) == again
    assert again not in (first, second)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_copy_in_the_cache_replaces_what_mlflow_has_lost(
    tracked: str,
    member: Path,
    artifacts: Callable[[str], Path],
    lose: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    address = upload(member)
    copy = fetch_member(address)
    lose(artifacts(run_of(address)) / "member")
    capfd.readouterr()
    assert find_member(KEY) == address
    (line,) = capfd.readouterr().err.splitlines()
    assert "gone from MLflow: uploaded again" in line
    shutil.rmtree(copy.parent)
    assert (fetch_member(address) / "weights.safetensors").read_bytes() == (member / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_whole_member_of_an_unfinished_run_is_reused(tracked: str, member: Path, status: str) -> None:
    address = upload(member)
    connect().set_terminated(run_of(address), status)
    assert find_member(KEY) == address
    # Whoever runs it may be alive, and then ends it.
    assert connect().get_run(run_of(address)).info.status == ("RUNNING" if status == "RUNNING" else "FINISHED")


def test_deleted_runs_and_runs_with_another_member_are_not_reused(
    tracked: str, member: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    connect().delete_run(run_of(upload(member)))
    assert find_member(KEY) is None
    connect().set_tag(run_of(upload(member)), "backdrop.content_key", "d" * 64)
    assert find_member(KEY) is None
    assert find_member("d" * 64) is None
    assert "isn't reused: it holds a member of other data or settings" in capfd.readouterr().err


def test_train_uploads_a_member_that_is_still_in_its_folder(
    clean: None, store: Path, data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    out = tmp_path / "out"
    first = train(str(data), str(plan), "tiny", 0, str(out), SMALL)
    artifacts = Path(connect().get_run(run_of(first.address)).info.artifact_uri)
    shutil.rmtree(artifacts / "member")
    shutil.rmtree(tmp_path / "cache" / "members", ignore_errors=True)
    again = train(str(data), str(plan), "tiny", 0, str(out), SMALL)
    assert (again.reused, again.member) == (True, first.member)
    assert again.address != first.address
    assert (fetch_member(again.address) / "weights.safetensors").is_file()


def test_a_member_that_mlflow_has_is_not_written_and_the_last_line_says_so(
    tracked: str, data: Path, plan: Path, tmp_path: Path
) -> None:
    def last_line(out: Path) -> str:
        sets = [word for each in SMALL for word in ("--set", each)]
        given = ["train", str(data), "--plan", str(plan), "--recipe", "tiny", "--fold", "0", "--out", str(out)]
        result = CliRunner().invoke(app.app, [*given, *sets])
        assert result.exit_code == 0
        return result.stdout.splitlines()[-1]

    first, second = tmp_path / "first", tmp_path / "second"
    address = last_line(first).split(": ")[0]
    assert last_line(first).endswith("on fold 0 (unchanged)")
    said = last_line(second)
    assert said.startswith(address)
    assert said.endswith(f"(unchanged; nothing was written to {second})")
    assert not second.exists()
