"""A task as its container runs it: the compiled package's own command, by kfp's executor."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backdrop.common import storage
from backdrop.components import task
from backdrop.config import find_ensemble
from backdrop.pipelines.package import build

Run = Callable[..., subprocess.CompletedProcess[str]]
CHECK = {"ensemble": "name: tiny\nmembers: [{recipe: tiny}]\n", "objects": 0}
SPLIT = {"folds": 2, "holdout": 0.15, "by": "area", "view": "", "seed": 0, "objects": 0, "extend": "models:/x@champion"}


@pytest.fixture(scope="module")
def executors() -> dict[str, Any]:
    executors: dict[str, Any] = build(find_ensemble("tiny"), [0]).documents[0]["deploymentSpec"]["executors"]
    return executors


@pytest.fixture
def run(executors: dict[str, Any], tmp_path: Path) -> Run:
    """Runs a task of the package with these inputs, as Kubeflow's launcher does."""

    def call(name: str, outputs: tuple[str, ...], environment: dict[str, str] | None = None, **inputs: Any) -> Any:
        container = executors[f"exec-{name}"]["container"]
        kinds = {output: {"artifacts": [{"name": output, "uri": str(tmp_path / output)}]} for output in outputs}
        given = {
            "inputs": {"parameterValues": inputs},
            "outputs": {
                "parameters": {"Output": {"outputFile": str(tmp_path / "output")}},
                "artifacts": kinds,
                "outputFile": str(tmp_path / "outputs.json"),
            },
        }
        command = [part.replace("{{$}}", json.dumps(given)) for part in (*container["command"], *container["args"])]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {**os.environ, "PATH": path, **(environment or {})}
        return subprocess.run(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return call


def test_a_refusal_ends_in_what_is_wrong_and_what_to_do(run: Run, tmp_path: Path) -> None:
    done = run("split", ("plan", "plans"), data=str(tmp_path / "none"), **SPLIT)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-2:] == [
        f"error: {tmp_path}/none is not a folder",
        "fix: Check the path",
    ]
    assert "Traceback" not in done.stdout


def test_faults_of_the_data_end_in_the_first(run: Run, data: Path) -> None:
    (data / "train" / "car00_01.jpg").write_bytes(b"")
    done = run("check", ("faults", "config"), data=str(data), **CHECK)
    assert done.returncode == 1
    fault = f"error: {data}/train/car00_01.jpg is not a readable image. Copy it again from where it came, or remove it."
    assert done.stdout.splitlines()[-1] == fault
    assert "Traceback" not in done.stdout


def test_a_bug_ends_in_its_traceback_and_a_request(run: Run, tmp_path: Path) -> None:
    done = run("split", ("plan", "plans"), data=str(tmp_path))
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stdout
    what, fix = done.stdout.splitlines()[-2:]
    assert what.startswith("error: This is a bug in Backdrop (")
    assert fix == "fix: Please report it with the traceback above"


def test_the_store_of_the_data_is_not_kubeflows(run: Run, bucket: str, data: Path) -> None:
    for path in data.rglob("*.*"):
        storage.write_bytes(f"{bucket}/cars/{path.relative_to(data)}", path.read_bytes())
    kubeflows = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "kubeflow", "AWS_MAX_ATTEMPTS": "1"}
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    ours = {f"BACKDROP_{name}": os.environ[name] for name in names}
    done = run("check", ("faults", "config"), kubeflows | ours, data=f"{bucket}/cars", **CHECK)
    assert done.returncode == 0, done.stdout


def test_kubernetes_and_so_kubeflows_page_show_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(task, "TERMINATION_LOG", log)
    monkeypatch.setattr(sys, "argv", ["task", "tests.components.no_such_module"])
    with pytest.raises(SystemExit) as stopped:
        task.main()
    assert stopped.value.code == 2
    assert log.read_text().startswith("error: This is a bug in Backdrop (ImportError: No module named tests.")
    assert log.read_text().endswith("fix: Please report it with the traceback above")
