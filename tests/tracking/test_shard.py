"""`shard` by a registered model, and the prediction pipeline in processes on this machine."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backdrop.cli.app import app
from backdrop.common import s3, storage
from backdrop.common.errors import TrackingError
from backdrop.data.photographs import list_names
from backdrop.inference.compose import PictureOptions
from backdrop.steps.merge import PHOTOGRAPHS, merge
from backdrop.steps.predict import Format, predict
from backdrop.steps.shard import Request, ShardPlan, shard
from tests.conftest import draw_pair
from tests.steps.test_predict import table
from tests.tracking.workspace import Workspace

pytestmark = pytest.mark.parametrize("tracked", ["embedded"], indirect=True)


@pytest.fixture
def model(tracked: str, workspace: Workspace, tmp_path: Path) -> str:
    made = workspace.register(tmp_path.name, 1, 0.95)
    return f"models:/{made.name}/{made.version}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(5):
        draw_pair(tmp_path / "new", f"car{index}_01", 50 + index)
    return tmp_path / "new" / "train"


def done(plan: ShardPlan, out: Path, format: Format = "cutout", options: PictureOptions | None = None) -> list[str]:  # noqa: A002
    """Predicts what a plan misses, merges, and returns the names of the photographs."""
    given = {"options": options} if options else {}
    for number in plan.missing:
        predict(plan.share(number), plan.address(number), model=plan.model, format=format, **given)
    merge([plan.address(number) for number in range(1, plan.count + 1)], str(out), plan.versions)
    return list(plan.versions)


def test_only_new_and_changed_photographs_are_predicted(model: str, photos: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", Request(str(photos), model, str(tmp_path / "out"), str(tmp_path / "work"), 2)
    names = sorted(path.name for path in photos.iterdir())
    plan = shard(asked)
    assert (plan.model, list(plan.versions), plan.missing) == (model, names, (1, 2))
    predict(plan.share(2), plan.address(2), model=plan.model)
    assert shard(asked).missing == (1,)
    assert done(shard(asked), out) == names
    assert shard(asked).versions == {}

    draw_pair(tmp_path / "new", "car7_01", 7)
    (photos / "car2_01.jpg").write_bytes((photos / "car3_01.jpg").read_bytes())
    assert done(shard(asked), out) == ["car2_01.jpg", "car7_01.jpg"]
    assert shard(asked).versions == {}
    assert {row[0] for row in table(out / PHOTOGRAPHS)[1:]} == {*names, "car7_01.jpg"}

    # With another background all pictures are others.
    red = PictureOptions(background=(255, 0, 0))
    others = Request(**{**vars(asked), "options": red})
    assert len(shard(others).versions) == 6
    done(shard(others), out, options=red)
    assert shard(others).versions == {}
    assert len(shard(asked).versions) == 6
    # Kaggle takes no part of a submission.
    whole = Request(**{**vars(asked), "format": "submission"})
    done(shard(whole), tmp_path / "submission", "submission")
    assert len(shard(whole).versions) == 6
    assert shard(whole).missing == ()


def test_what_failed_is_tried_again_with_the_next_new_photographs(model: str, photos: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", Request(str(photos), model, str(tmp_path / "out"), str(tmp_path / "work"), 2)
    bad = photos / "car2_01.jpg"
    data, times = bad.read_bytes(), bad.stat()
    bad.write_bytes(bytes(len(data)))  # as a disk gives it that is full of errors
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    done(shard(asked), out)
    assert [row[0] for row in table(out / "failed.csv")[1:]] == [bad.name]
    bad.write_bytes(data)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert shard(asked).versions == {}  # or a GPU would be asked for every night
    draw_pair(tmp_path / "new", "car7_01", 7)
    assert done(shard(asked), out) == [bad.name, "car7_01.jpg"]
    assert not (out / "failed.csv").exists()
    assert (out / "car2_01.png").is_file()


@pytest.mark.parametrize("remote", [False, True])
def test_a_photograph_that_is_deleted_meanwhile_is_left_out(
    model: str, photos: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    images, names = f"{bucket}/new" if remote else str(photos), sorted(path.name for path in photos.iterdir())
    if remote:
        storage.upload_folder(photos, images, names[0])

    def list_and_delete(address: str) -> list[str]:
        listed = list_names(address)
        s3.delete(f"{images}/{names[2]}") if remote else (photos / names[2]).unlink()
        return listed

    monkeypatch.setattr("backdrop.steps.shard.list_names", list_and_delete)
    plan = shard(Request(images, model, str(tmp_path / "out"), str(tmp_path / "work"), 2))
    assert list(plan.versions) == [*names[:2], *names[3:]]


def test_a_model_that_is_not_there(model: str, photos: Path, tmp_path: Path) -> None:
    for address in (f"{model}0", f"{model.rpartition('/')[0]}@champion"):
        with pytest.raises(TrackingError, match=r"There is no models:.*List the models"):
            shard(Request(str(photos), address, str(tmp_path / "out"), str(tmp_path / "work"), 2))


def run(params: Path) -> tuple[list[str], str]:
    """Runs the pipeline in processes; returns the tasks that ran, and the line with the results."""
    work = params.parent / "here"
    words = ["pipeline", "run", "prediction", "--shards", "2", "--params", str(params), "--work", str(work)]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    (line,) = [line for line in answer.output.splitlines() if line.startswith("Results")]
    newest = max((work / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return sorted(path.stem for path in newest.iterdir()), line.removeprefix("Results").strip()


@pytest.mark.thorough
def test_the_pipeline_predicts_what_is_new_and_nothing_twice(
    model: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    out, work, params = tmp_path / "out", tmp_path / "work", tmp_path / "params.yaml"
    given = {"images": "new/train", "model": model, "out": "out", "work": "work", "background": "red"}  # seen from it
    params.write_text(json.dumps(given))
    tasks = ["merge", "predict-1", "predict-2", "shard"]
    assert run(params) == (tasks, f"{out}: 5 photographs, 5 new, 0 failed")
    predict(str(photos), str(tmp_path / "whole"), model=model, options=PictureOptions(background=(255, 0, 0)))
    for path in (tmp_path / "whole").glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert run(params) == (["shard"], f"{out}: nothing is new")

    # A run that died between predict and merge: no share is predicted again.
    shutil.rmtree(out)
    shares = {path: path.stat().st_mtime_ns for path in work.rglob("predict.json")}
    assert run(params)[0] == tasks
    assert {path: path.stat().st_mtime_ns for path in work.rglob("predict.json")} == shares
    assert json.loads((out / "merge.json").read_bytes())["images"] == 5
