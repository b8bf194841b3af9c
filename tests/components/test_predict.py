import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from backdrop.components.merge import merge
from backdrop.components.predict import predict
from backdrop.components.shard import shard
from backdrop.config import find_recipe
from backdrop.inference.compose import PictureOptions
from backdrop.steps import predict as step
from backdrop.steps.shard import ShardPlan
from tests.conftest import draw_pair
from tests.tracking.workspace import write_member

RECIPE = find_recipe("tiny", ["input.size=16x16", "network.width=2", "network.depth=1"])
STYLE = ("cutout", "white", 5.0, "jpeg")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dsl.Artifact:
    """The plan of a single share, whose model is a member."""
    for index in range(2):
        draw_pair(tmp_path, f"car{index}_01", index)
    (tmp_path / "train" / "car2_01.jpg").write_bytes(b"")
    versions = {path.name: "1" for path in sorted((tmp_path / "train").iterdir())}
    member = str(write_member(tmp_path / "member", RECIPE, "k" * 64, 0))
    open_ensemble = step._open
    monkeypatch.setattr(step, "_open", lambda _members, model, ensemble: open_ensemble([model], None, ensemble))
    monkeypatch.setattr("backdrop.common.watch.watched", lambda _task, work: work())
    made = ShardPlan(
        images=str(tmp_path / "train"), model=member, folder=str(tmp_path / "work"), count=1, versions=versions,
        missing=(1,),
    )  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(made.model_dump_json())
    return dsl.Artifact(name="plan", uri=str(path), metadata={})


def metrics(tmp_path: Path) -> dsl.Artifact:
    return dsl.Artifact(name="metrics", uri=str(tmp_path / "metrics"), metadata={})


def test_a_share_is_predicted_once_and_merged(plan: dsl.Artifact, tmp_path: Path) -> None:
    seen: list[Any] = []
    for _ in range(2):
        figures = metrics(tmp_path)
        part = predict.python_func(plan, 1, *STYLE, figures)
        assert part == str(tmp_path / "work" / "1-of-1")
        assert figures.metadata == {"images": 3, "failed": 1}
        seen.append((tmp_path / "work" / "1-of-1" / step.RECORD).stat())
    assert seen[0] == seen[1]
    figures = metrics(tmp_path)
    assert merge.python_func(plan, [part], str(tmp_path / "out"), figures) == str(tmp_path / "out")
    assert figures.metadata == {"images": 3, "new": 3, "failed": 1}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["car0_01.jpg", "car1_01.jpg"]


@pytest.mark.parametrize(("versions", "missing"), [({}, ()), ({"a.jpg": "1"}, ()), ({"a.jpg": "1"}, (2,))])
def test_each_share_is_placed_by_what_it_misses(
    versions: dict[str, str], missing: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    made = ShardPlan(images="photos", model="m", folder="w", count=2, versions=versions, missing=missing)
    monkeypatch.setattr("backdrop.steps.shard.shard", lambda request: asked.append(request) or made)
    plan, summary = (
        dsl.Artifact(name=name, uri=str(tmp_path / f"{name}.txt"), metadata={}) for name in ("plan", "summary")
    )
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    groups = [["predict-1"], ["predict-2"]]
    place = ("2", "4", "16Gi", {"pool": "gpu"}, [], {"pool": "cpu"}, [{"key": "cpu"}])
    given = ("photos", "models:/cars@champion", "out", "work", *STYLE, groups, *place)
    assert shard.python_func(*given, plan, summary, str(outputs / "missing")) == bool(versions)
    (request,) = asked
    assert (request.images, request.model, request.out, request.work, request.count) == (*given[:4], 2)
    assert request.options == PictureOptions("jpeg", (255, 255, 255), 5.0)
    assert ShardPlan.model_validate_json(Path(plan.path).read_bytes()) == made
    assert [(outputs / f"gpus_{n}").read_text() for n in (0, 1)] == ["0", "2" if missing else "0"]
    assert [(outputs / f"memory_{n}").read_text() for n in (0, 1)] == ["2Gi", "16Gi" if missing else "2Gi"]
    nodes = [json.loads((outputs / f"node_selector_{n}").read_text())["pool"] for n in (0, 1)]
    assert nodes == ["cpu", "gpu" if missing else "cpu"]
    assert [(outputs / f"tolerations_{n}").read_text() == "[]" for n in (0, 1)] == [False, bool(missing)]
    assert (outputs / "missing").read_text() == ("predict-2" if missing else "")
