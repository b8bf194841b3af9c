"""`drift` and `next` with a registered model: what its evaluation keeps, and what they say of new photographs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common.errors import BackdropError, ConfigError, DataError
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset, read_image
from backdrop.data.folds import dump_plan, make_plan
from backdrop.evaluation.statistics import NAMES, measure_image, measure_prediction, read_statistics
from backdrop.inference.ensemble import load_ensemble
from backdrop.inference.member import MemberRecord, content_key
from backdrop.steps import drift as steps_drift
from backdrop.steps.drift import DriftRecord, drift
from backdrop.steps.evaluate import evaluate
from backdrop.steps.next import next as choose_next
from backdrop.steps.register import register
from backdrop.tracking import registry
from backdrop.tracking.evaluations import fetch_statistics
from backdrop.tracking.version_files import fetch
from tests.conftest import draw_pair
from tests.tracking.workspace import HELD, Workspace

pytestmark = pytest.mark.parametrize("tracked", ["embedded"], indirect=True)


@pytest.fixture
def model(workspace: Workspace, tracked: str) -> str:
    """A version of two members with random weights, as `evaluate` found it."""
    return make_model(workspace)


def make_model(workspace: Workspace) -> str:
    data, plan, members = str(workspace.data), str(workspace.plan), [str(path) for path in workspace.members(1)]
    report, ensemble = str(workspace.root / "evaluated"), str(workspace.ensemble(1))
    evaluate(data, plan, members, report, ensemble)
    version = workspace.root.name
    made = register(data, plan, members, report, ensemble, version)
    return f"models:/{version}/{made.version}"


def draw(folder: Path, objects: int, change: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> Path:
    """Photographs of new objects, as those of the workspace are."""
    for index in range(objects):
        for view in (1, 2):
            draw_pair(folder / "drawn", f"new{index:02d}_{view:02d}", 7000 + 10 * index + view)
    (folder / "day" / "one").mkdir(parents=True)
    for path in sorted((folder / "drawn" / "train").iterdir()):
        cv2.imwrite(str(folder / "day" / "one" / path.name), change(cv2.imread(str(path))))
    return folder / "day"


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app.app, [str(word) for word in words])
    return result.exit_code, result.stdout


def test_an_evaluation_keeps_what_a_prediction_finds_again(model: str, workspace: Workspace) -> None:
    version = registry.require_version(model)
    rows = fetch_statistics(version.evaluation_run)
    assert rows == read_statistics(workspace.root / "evaluated" / "statistics.csv")
    held = [row for row in rows if row.fold == "holdout"]
    assert len(held) == 2 * HELD
    network, dataset = load_ensemble(fetch(registry.require_version(model))), open_dataset(workspace.data)
    for row in held[:3]:
        image = read_image(dataset.photos[row.image].image)
        (outcome,) = network.outcomes([network.prepare(image)], with_probability=True)
        assert outcome.probability is not None
        expected = measure_image(image) | measure_prediction(outcome.probability, network.cut(outcome, row.view))
        assert row.values == pytest.approx(expected, abs=1e-6)


def test_darker_photographs_are_drift_and_equal_ones_are_not(model: str, tmp_path: Path) -> None:
    same, dark = draw(tmp_path / "same", 8), draw(tmp_path / "dark", 8, lambda image: image // 2)
    code, printed = run("drift", "--reference", model, "--current", same, "--out", tmp_path / "a")
    assert code == 0, printed
    assert printed.startswith("no drift: p = 0.")
    code, printed = run("drift", "--reference", model, "--current", dark, "--out", tmp_path / "b")
    assert code == 3
    assert "border_red lower in all 2 views" in printed
    record = json.loads((tmp_path / "b" / "drift.json").read_text())
    assert (record["verdict"], record["model"], record["compared"]) == ("drift", model, 16)
    assert (record["reference_objects"], record["current_objects"], record["views"]) == (HELD, 8, ["01", "02"])
    assert len(record["comparisons"]) == 3 * len(NAMES)
    rows = read_statistics(tmp_path / "b" / "statistics.csv")
    assert {(row.object, row.fold) for row in rows} == {(f"one/new{i:02d}", "") for i in range(8)}
    page = (tmp_path / "b" / "index.html").read_text()
    assert page.count("<figure>") == 16
    again = drift(model, str(dark), str(tmp_path / "c"))
    assert again.p == record["p"]
    names = ("index.html", "drift.json", "statistics.csv")
    assert all((tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes() for name in names)


def test_a_photograph_that_vanishes_once_it_is_measured_is_only_not_shown(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "new", 6)
    compare = steps_drift.compare

    def remove_one(*arguments: Any) -> Any:
        (folder / "one" / "new00_01.jpg").unlink()
        return compare(*arguments)

    monkeypatch.setattr(steps_drift, "compare", remove_one)
    assert drift(model, str(folder), str(tmp_path / "out")).compared == 12
    assert "index.html leaves a photograph out: " in capsys.readouterr().err
    assert (tmp_path / "out" / "index.html").read_text().count("<figure>") == 11
    assert len(read_statistics(tmp_path / "out" / "statistics.csv")) == 12


def test_what_can_t_be_compared_is_said(model: str, workspace: Workspace, tmp_path: Path) -> None:
    folder = draw(tmp_path / "new", 6)
    (folder / "broken_01.jpg").write_bytes(b"no picture")
    for name, copy in (("car00_01.jpg", "car00_01.jpg"), ("car00_02.jpg", "front.jpg")):
        (folder / copy).write_bytes((workspace.data / "train" / name).read_bytes())
    (folder / "raw_01.nef").write_bytes(b"raw")
    _, printed = run("drift", "--reference", model, "--current", folder, "--out", tmp_path / "out")
    assert "1 file passed over: .nef (1)" in printed
    record = DriftRecord.model_validate_json((tmp_path / "out" / "drift.json").read_text())
    assert (record.compared, record.failed, record.known, record.other_views) == (12, 1, 1, 1)
    assert [(one.file, one.photograph) for one in record.passed_over] == [("raw_01.nef", True)]
    assert "1 photograph can&#x27;t be used" in (tmp_path / "out" / "index.html").read_text()


def test_objects_that_a_member_knows_by_pseudo_labels_are_not_new(
    workspace: Workspace, tracked: str, tmp_path: Path
) -> None:
    record = workspace.members(1)[0] / "member.json"
    values = json.loads(record.read_text()) | {"pseudo": "sha256:0", "pseudo_objects": ["new00", "new03"]}
    record.write_text(json.dumps(values))
    own = MemberRecord.model_validate(values)
    key = content_key(workspace.recipe(1), *workspace.read(), own.fold, own.pseudo)
    record.write_text(json.dumps(values | {"key": key}))
    found = drift(make_model(workspace), str(draw(tmp_path / "new", 6)), str(tmp_path / "out"))
    assert (found.compared, found.known) == (8, 4)


def test_names_without_views_are_compared_all_together(model: str, tmp_path: Path) -> None:
    folder = draw(tmp_path / "new", 8)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.rename(folder / f"IMG{number}.jpg")
    record = drift(model, str(folder), str(tmp_path / "out"))
    assert (record.current_objects, record.reference_objects, record.views) == (16, HELD, ("",))


def test_few_objects_have_an_exit_code_of_their_own(model: str, tmp_path: Path) -> None:
    code, printed = run("drift", "--reference", model, "--current", draw(tmp_path, 1), "--out", tmp_path / "out")
    assert (code, printed.splitlines()[0]) == (2, f"too few objects to tell: 1 object against {HELD} of the holdout")
    assert "Too few objects to tell" in (tmp_path / "out" / "index.html").read_text()


def test_what_there_is_nothing_to_say_of_is_refused(model: str, workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--alpha must be"):
        drift(model, str(workspace.data / "train"), str(tmp_path / "out"), alpha=0.0)
    with pytest.raises(DataError, match=r"only photographs of objects that .* knows"):
        drift(model, str(workspace.data / "train"), str(tmp_path / "out"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x_01.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no photograph that can be used"):
        drift(model, str(tmp_path / "bad"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_without_a_holdout_there_is_no_reference(workspace: Workspace, tracked: str, tmp_path: Path) -> None:
    plan = tmp_path / "all.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(workspace.data), Rule(2, 0, "area", 0))))
    other = workspace.with_plan(plan)
    members, ensemble, report = [str(path) for path in other.members(1)], str(other.ensemble(1)), str(tmp_path / "r")
    evaluate(str(other.data), str(plan), members, report, ensemble)

    made = register(str(other.data), str(plan), members, report, ensemble, tmp_path.name)
    with pytest.raises(BackdropError, match="was judged without a holdout"):
        drift(f"models:/{tmp_path.name}/{made.version}", str(draw(tmp_path / "new", 2)), str(tmp_path / "out"))


def test_unlike_objects_come_first_to_be_labeled(
    model: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = workspace.data / "test"
    test.mkdir()
    for path in draw(tmp_path / "new", 5).rglob("*.jpg"):
        image = cv2.imread(str(path))
        cv2.imwrite(str(test / path.name), image[::-1] // 3 if path.name.startswith("new03") else image)
    (test / "car00_09.jpg").write_bytes((workspace.data / "train" / "car00_01.jpg").read_bytes())  # labeled already
    (test / "new04_01.jpg").write_bytes(b"no picture")
    (test / "new05_01.nef").write_bytes(b"raw")
    code, printed = run("next", workspace.data, "--model", model, "--count", 4, "--out", tmp_path / "next")
    with (tmp_path / "next" / "next.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert code == 0
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["object"] == "new03"
    assert {row["photographs"] for row in rows} <= {"1", "2"}
    assert all(row["object"].startswith("new") for row in rows)
    worth = [float(row["doubt"]) * float(row["distance"]) for row in rows]
    assert worth == sorted(worth, reverse=True)
    assert printed.splitlines()[0].split()[:2] == ["1", "new03"]
    assert len(choose_next(str(workspace.data), model, str(tmp_path / "all"), 100)) == 5
    assert "1 file passed over: .nef (1)" in capsys.readouterr().err


def test_what_can_t_be_chosen_from_is_refused(model: str, workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/test has no photographs of new objects"):
        choose_next(str(workspace.data), model, str(tmp_path / "next"))
    with pytest.raises(ConfigError, match="--count must be at least 1"):
        choose_next(str(workspace.data), model, str(tmp_path / "next"), 0)
    (workspace.data / "test").mkdir()
    (workspace.data / "test" / "new_01.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="/test has no photograph that can be used"):
        choose_next(str(workspace.data), model, str(tmp_path / "next"))
    assert not (tmp_path / "next").exists()
