import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backdrop.common.errors import TrackingError
from tests.conftest import SMALL
from tests.fakes.mlflow import local_server


def test_nothing_is_left_of_a_server_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*args: Any, **options: Any) -> "subprocess.Popen[bytes]":
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr("backdrop.tracking.server.subprocess.Popen", remember)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(TrackingError, match=r"didn't start. See .*server.log"), local_server(tmp_path):
        pass
    assert "file is not a database" in (tmp_path / "server.log").read_text()
    assert started[0].returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0].pid, 0)


def test_a_variable_that_mlflow_cannot_convert_is_named(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.tracking.client import connect  # as slow to import as mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "abc")
    with pytest.raises(TrackingError, match=r"^MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR can't be used \(Failed to convert"):
        connect()


def test_asking_whether_tracking_is_on_imports_no_mlflow() -> None:
    code = "import sys, backdrop.tracking as t, backdrop.tracking.server; t.enabled(); print('mlflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert process.stdout.strip() == "False"


Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Hides mlflow from a process, as if it weren't installed.
HIDE = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "mlflow" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from backdrop.cli.app import main
"""
ONCE = f"{HIDE}main()"
EACH = f"""{HIDE}
import json
from backdrop.common import progress
progress.HEARTBEAT_S = 1e6  # however busy the machine is
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try: main()
    except SystemExit as end: print(end.code)
"""


@pytest.fixture
def without_mlflow(clean: None, tmp_path: Path) -> Run:
    here = tmp_path / "here"  # a thread that an earlier test left writes to this process's folder
    here.mkdir()

    def run(*arguments: str, code: str = ONCE) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=here)

    return run


@pytest.mark.thorough
def test_without_mlflow_training_and_predicting_work_and_say_so_once(
    without_mlflow: Run, data: Path, plan: Path, tmp_path: Path
) -> None:
    sets = [word for one in SMALL for word in ("--set", one)]
    for fold in "01":
        trained = without_mlflow(
            *("train", str(data), "--plan", str(plan), "--recipe", "tiny", "--fold", fold, "--out", f"m{fold}", *sets)
        )
        assert trained.returncode == 0, trained.stderr
        assert trained.stderr.count("MLflow isn't installed: nothing is tracked") == 1
    evaluated = without_mlflow("evaluate", str(data), "--plan", str(plan), "--members", "m0", "m1", "--out", "report")
    assert evaluated.returncode == 0, evaluated.stderr
    predicted = without_mlflow("predict", str(data / "train"), "--members", "m0", "--out", "masks")
    assert predicted.returncode == 0, predicted.stderr
    assert not list((tmp_path / "here").glob("*mlflow*"))


def test_without_mlflow_the_registrys_commands_name_the_extra(without_mlflow: Run, tmp_path: Path) -> None:
    (tmp_path / "here" / "photo.jpg").write_bytes(b"")
    commands = [
        ("models",),
        ("rollback", "--name", "cars"),
        ("promote", ".", "--name", "cars"),
        ("predict", ".", "--model", "models:/cars@champion", "--out", "masks"),
        ("reap",),
    ]
    done = without_mlflow(json.dumps(commands), code=EACH)
    assert done.stdout == "2\n" * len(commands), done.stderr
    for _, line in zip(commands, done.stderr.splitlines(), strict=True):
        assert "pip install 'backdrop-ml[tracking]'" in line
