"""A task as its container runs it: the compiled package's own command, by kfp's executor."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common import storage
from backdrop.components import task
from backdrop.components.places import place_outputs
from backdrop.config import find_ensemble
from backdrop.pipelines.package import build

Run = Callable[..., subprocess.CompletedProcess[str]]
CHECK: dict[str, Any] = {"ensemble": "name: tiny\nmembers: [{recipe: tiny}]\n", "objects": 0}
GROUPS = [["train-tiny-0"]]
PLAN = {
    "name": "x",
    "searches": "none",
    "objects": 0,
    "folds": [0],
    "tuned": "off",
    "promotion": True,
    "groups": GROUPS,
}
POOL = {
    "gpus": "1",
    "cpu": "4",
    "memory": "16Gi",
    "node_selector": {"gpu": "yes"},
    "tolerations": [{"operator": "Exists"}],
    "cpu_node_selector": {},
    "cpu_tolerations": [],
}


@pytest.fixture(scope="module")
def executors() -> dict[str, Any]:
    executors: dict[str, Any] = build(find_ensemble("tiny"), [0]).documents[0]["deploymentSpec"]["executors"]
    return executors


@pytest.fixture
def run(executors: dict[str, Any], tmp_path: Path) -> Run:
    """Runs a task of the package with these inputs, as Kubeflow's launcher does."""

    def call(name: str, outputs: tuple[str, ...], environment: dict[str, str] | None = None, /, **inputs: Any) -> Any:
        container = executors[f"exec-{name}"]["container"]
        config = {"name": "config", "uri": str(tmp_path / "config.yaml")}
        Path(config["uri"]).write_text(CHECK["ensemble"])
        more = place_outputs(GROUPS) if name == "plan" else {}
        kinds = {output: {"artifacts": [{"name": output, "uri": str(tmp_path / output)}]} for output in outputs}
        given = {
            "inputs": {"parameterValues": inputs, "artifacts": {"config": {"artifacts": [config]}}},
            "outputs": {
                "parameters": {key: {"outputFile": str(tmp_path / key)} for key in ("Output", "missing", *more)},
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
    done = run("check", ("faults", "config"), data=str(tmp_path / "none"), **CHECK)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-2:] == [
        f"error: {tmp_path}/none is not a folder",
        "fix: Check the path",
    ]
    assert "Traceback" not in done.stdout


def test_plan_leaves_what_kubeflow_places_tasks_by(
    run: Run, data: Path, tmp_path: Path, make_store: Callable[[Path], Path]
) -> None:
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{make_store(tmp_path / 'store')}/mlflow.db"}
    done = run("plan", ("plans", "summary"), store, data=str(data), **PLAN, **POOL)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "outputs.json").read_text())["parameterValues"]["Output"] is True
    assert (tmp_path / "missing").read_text() == "train-tiny-0, evaluation, verdict"
    values = {name: (tmp_path / name).read_text() for name in place_outputs(GROUPS)}
    assert values == {
        "gpus_0": "1",
        "cpu_0": "4",
        "memory_0": "16Gi",
        "node_selector_0": '{"gpu": "yes"}',
        "tolerations_0": '[{"operator": "Exists"}]',
    }


def test_a_whole_number_arrives_whole_however_it_is_written(
    run: Run, make_dataset: Callable[..., Path], tmp_path: Path, make_store: Callable[[Path], Path]
) -> None:
    """Of the objects only the first six are read, and Kubernetes takes a toleration's whole seconds alone."""
    data = make_dataset(objects=7)
    (data / "train" / "car06_01.jpg").write_bytes(b"")
    done = run("check", ("faults", "config"), data=str(data), **{**CHECK, "objects": 6.0})
    assert done.returncode == 0, done.stdout
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{make_store(tmp_path / 'store')}/mlflow.db"}
    pool = {**POOL, "tolerations": [{"operator": "Exists", "tolerationSeconds": 300.0}]}
    done = run("plan", ("plans", "summary"), store, data=str(data), **{**PLAN, "objects": 6.0, "folds": [0.0]}, **pool)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "tolerations_0").read_text() == '[{"operator": "Exists", "tolerationSeconds": 300}]'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_numbers_keep_their_value(value: Any) -> None:
    def floats(value: Any) -> list[float]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [value] if isinstance(value, float) else [one for each in inner for one in floats(each)]

    read = json.loads(task.with_whole_numbers(json.dumps(value)))
    assert read == value
    assert not [one for one in floats(read) if one.is_integer()]


def test_what_is_no_json_is_left_to_the_executor() -> None:
    assert task.with_whole_numbers("{") == "{"


def test_faults_of_the_data_end_in_the_first(run: Run, data: Path) -> None:
    (data / "train" / "car00_01.jpg").write_bytes(b"")
    done = run("check", ("faults", "config"), data=str(data), **CHECK)
    assert done.returncode == 1
    fault = f"error: {data}/train/car00_01.jpg is not a readable image. Copy it again from where it came, or remove it."
    assert done.stdout.splitlines()[-1] == fault
    assert "Traceback" not in done.stdout


def test_a_bug_ends_in_its_traceback_and_a_request(run: Run, tmp_path: Path) -> None:
    done = run("plan", ("plans", "summary"), data=str(tmp_path))
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


@pytest.mark.parametrize("plugin", [True, False])
def test_the_experiment_of_kubeflows_mlflow_plugin_is_not_ours(plugin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32 if plugin else "")
    monkeypatch.setenv("BACKDROP_AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_REGION", "kubeflow")
    task.take_settings()
    assert os.environ.get("MLFLOW_EXPERIMENT_ID") == (None if plugin else "7")
    assert (os.environ["AWS_REGION"], os.environ.get("BACKDROP_AWS_REGION")) == ("eu-central-1", None)


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
