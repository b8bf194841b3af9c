"""Local runs: what they end with, and what they leave in the terminal, the environment and the work folder."""

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from backdrop.common import processes
from backdrop.common.errors import TrackingError
from backdrop.config import find_ensemble, find_recipe
from backdrop.data.folds import read_plans
from backdrop.local import run as local
from backdrop.local.console import Task
from backdrop.local.results import Outputs
from backdrop.local.run import Request, exit_code, run_here
from backdrop.pipelines.training import Tuned
from backdrop.steps.models import models
from backdrop.steps.predict import predict
from backdrop.steps.rollback import rollback
from backdrop.tracking.server import _wait_until_healthy
from tests.conftest import SMALL

REFUSAL = "error: Too few objects\nfix: Add some"


def task(name: str, well: bool | None, last: str = "") -> Task:
    made = Task(name, began=0.0, well=well)
    for line in last.split("\n"):
        made.take(line)
    return made


@pytest.mark.parametrize(
    ("tasks", "code"),
    [
        ([task("check", True), task("train-tiny-0", True)], 0),
        ([task("check", False, "error: a.jpg is empty. Draw it.")], 1),
        ([task("check", True), task("plan", False, REFUSAL)], 2),
        ([task("check", True), task("train-tiny-0", False, REFUSAL)], 1),
        ([task("check", True), task("train-tiny-0", None)], 1),
        ([], 1),
    ],
)
def test_exit_code(tasks: list[Task], code: int) -> None:
    assert exit_code({task.name: task for task in tasks}) == code


def test_report_is_copied_and_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example:5000/here")
    page = tmp_path / "page"
    page.write_text("<p>")
    outputs = Outputs({"evaluate": {"artifacts": {"page": {"artifacts": [{"uri": str(page)}]}}}})
    lines = local._pages(Request(find_ensemble("tiny"), "d", "tiny", tmp_path / "work"), outputs)
    assert lines == [
        f"Report     {tmp_path / 'work'}/report/index.html",
        "MLflow     https://mlflow.example:5000/here",
    ]
    assert (tmp_path / "work" / "report" / "index.html").read_text() == "<p>"


@pytest.mark.parametrize(
    ("uri", "options"),
    [("", ""), ("sqlite:///other.db", r" --backend-store-uri sqlite:////.*/other\.db")],
)
def test_the_command_that_shows_the_store_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, options: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (line,) = local._pages(Request(find_ensemble("tiny"), "d", "tiny", tmp_path), Outputs({}))
    assert re.fullmatch(f"MLflow     .*/mlflow ui{options}", line)


def test_a_run_without_tracking_is_refused_before_its_first_task(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_TRACKING", "off")
    with pytest.raises(TrackingError, match="A pipeline run needs MLflow"):
        run("sound")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, whose store is used."""
    monkeypatch.delenv("BACKDROP_TRACKING")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(make_dataset: Callable[..., Path], here: Path, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Runs an ensemble of some recipes, made as small as can be, on one small dataset."""
    data = make_dataset(objects=6, views=2)

    def once(*recipes: str, tuned: Tuned = "off") -> tuple[int, str]:
        ensemble = find_ensemble(_write_ensemble(tmp_path, recipes))
        text = io.StringIO()
        request = Request(ensemble, str(data), "cars", tmp_path / "work", tuned=tuned)
        return run_here(request, Console(file=text, width=100)), text.getvalue()

    return once


def _write_ensemble(folder: Path, recipes: tuple[str, ...]) -> str:
    small = find_recipe("tiny", [*SMALL, "epochs=4"]).model_dump(mode="json")
    lost = {"address": str(folder / "lost.safetensors"), "sha256": "0" * 64}
    parts = [{"recipe": {**small, "name": name, "pretrained": lost if name == "broken" else None}} for name in recipes]
    values = {"name": "small", "folds": {"count": 2}, "members": parts, "gate": {"minimum_dice": 0.0}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.e2e
def test_failed_member_does_not_stop_the_others(
    run: Callable[..., tuple[int, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stdout, paths = sys.stdout, os.environ.get("PYTHONPATH")
    code, text = run("sound", "broken")
    assert code == 1
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [(row[0], row[1], row[4] == "FAILED") for row in rows] == [
        ("0", "broken", True),
        ("0", "sound", False),
        ("1", "broken", True),
        ("1", "sound", False),
    ]
    assert "This network has no encoder to load pretrained weights into" in text
    assert "Finished members are not trained again" in text
    assert re.search(r"FAILED +train-broken-0: see .*train-broken-0\.log", text)
    assert "evaluate" not in text
    assert sys.stdout is stdout
    assert os.environ.get("PYTHONPATH") == paths
    assert "KFP" not in capfd.readouterr().out
    logs = {path.name for path in (tmp_path / "work" / "logs").rglob("*.log")}
    trained = {f"train-{name}-{fold}.log" for name in ("sound", "broken") for fold in "01"}
    assert logs == {"check.log", "plan.log"} | trained


@pytest.mark.e2e
def test_a_second_run_trains_nothing_and_the_folder_alone_is_enough(
    run: Callable[..., tuple[int, str]], here: Path
) -> None:
    """The README's path, with no server: two runs, the list of models, the champion's masks, and an honest rollback."""
    code, text = run("sound")
    assert code == 0, text
    assert "models:/cars/1 (new)" in text
    assert "promoted: it is models:/cars@champion now" in text
    assert re.search(r"MLflow +\S+/mlflow ui\n", text)
    first = (here / "work" / "report" / "index.html").read_bytes()
    code, text = run("sound")
    assert code == 0, text
    assert text.count("reused") == 2
    assert "models:/cars/1 (unchanged)" in text
    assert "unchanged: it is the champion already" in text
    assert "Nothing was missing" in text
    assert [line.split()[1] for line in text.splitlines() if "done in" in line] == ["check", "plan"]
    assert b"Promoted" in first
    assert (here / "work" / "report" / "index.html").read_bytes() == first
    (model,) = models()
    assert (model.name, model.champion) == ("cars", 1)
    predict("data/train", str(here / "masks"), model="models:/cars@champion")
    assert len(list((here / "masks").glob("*.png"))) == 12
    with pytest.raises(TrackingError, match="the only champion that cars has had, so there is nothing to roll back to"):
        rollback("cars")
    # What anybody sees who starts MLflow's own page in this folder.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (here / "ui.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_until_healthy(server, port, here / "ui.log")
        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("backdrop")
        runs = client.search_runs([experiment.experiment_id], "tags.`backdrop.kind` = 'member'")
        assert len(runs) == 2
        assert {entry.path for entry in client.list_artifacts(runs[0].info.run_id, "member")} >= {"member/member.json"}
        assert client.get_model_version_by_alias("cars", "champion").version == "1"
    finally:
        processes.end(server)


@pytest.mark.e2e
def test_two_fold_schemes_and_a_second_run_on_more_objects(
    make_dataset: Callable[..., Path], here: Path, tmp_path: Path
) -> None:
    """Real tasks: each scheme's plan goes to its members, all go to evaluate and register, and both are extended."""
    small = find_recipe("tiny", [*SMALL, "epochs=4"]).model_dump(mode="json")
    parts = [{"recipe": small}, {"recipe": {**small, "name": "shuffled"}, "folds": {"count": 3, "by": "stratified"}}]
    values = {"name": "schemes", "folds": {"count": 2}, "members": parts, "gate": {"minimum_dice": 0.0}}
    config = tmp_path / "schemes.yaml"
    config.write_text(yaml.safe_dump(values))
    plans = []
    for objects, folds, last in ((6, [0], "[7/7]"), (9, None, "[10/10]")):
        text = io.StringIO()
        data, work = str(make_dataset(objects)), tmp_path / "work"
        request = Request(find_ensemble(str(config)), data, "cars", work, folds=folds)
        assert run_here(request, Console(file=text, width=100)) == 0, text.getvalue()
        assert f"{last} promote" in text.getvalue()
        assert "reused" not in text.getvalue()
        (folder,) = max((tmp_path / "work" / "runs").iterdir()).rglob("plan/plans")
        plans.append(read_plans([str(path) for path in sorted(folder.iterdir())]))
    for old, new in zip(*plans, strict=True):
        assert old.assignment().items() <= new.assignment().items()
    assert [plan.folds for plan in plans[1]] == [[0, 1], [0, 1, 2]]
    page = (tmp_path / "work" / "report" / "index.html").read_text()
    assert all(name in page for name in ("tiny-1", "shuffled-2"))


@pytest.mark.e2e
def test_auto_proposes_an_ensemble_once_and_trains_it(make_dataset: Callable[..., Path], here: Path) -> None:
    data = make_dataset(objects=5, views=2)
    command = [sys.executable, "-m", "backdrop", "pipeline", "run", "auto", "--data", str(data), "--set", "epochs=4"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    proposal = here / "work" / "auto.yaml"
    text = proposal.read_text()
    ensemble = find_ensemble(str(proposal))
    reasons = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    assert first.stdout.startswith("\n".join([*reasons, "The ensemble is in work/auto.yaml"]))
    members = list((here / "work" / "members").glob("*/member.json"))
    assert len(members) == ensemble.folds.count
    assert "models:/auto/1 (new)" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith("Using the ensemble in work/auto.yaml; delete it to get another proposal\n")
    assert "measuring" not in again.stderr
    assert "models:/auto/1 (unchanged)" in again.stdout
    assert proposal.read_text() == text


@pytest.mark.slow
def test_members_train_with_what_a_search_found(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, text = run("tiny-searched", tuned="fast")
    assert code == 0, text
    (search,) = (tmp_path / "work" / "members").glob("tune-tiny-searched-*")
    schedule = yaml.safe_load((search / "schedule.yaml").read_text())
    recipes = [yaml.safe_load(path.read_text()) for path in (tmp_path / "work" / "members").glob("tiny-*/recipe.yaml")]
    assert len(recipes) == 2
    for recipe in recipes:
        own = find_recipe("tiny", (), schedule)
        assert recipe["schedule"] == own.model_dump(mode="json")["schedule"]
        assert recipe["optimizer"] == own.model_dump(mode="json")["optimizer"]
    assert "promoted:" in text or "rejected:" in text
    code, text = run("tiny-searched", tuned="fast")
    assert code == 0
    assert text.count("reused") == 2
