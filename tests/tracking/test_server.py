import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backdrop.common.errors import TrackingError
from backdrop.tracking.server import local_server


def test_nothing_is_left_of_a_server_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*args: Any, **options: Any) -> "subprocess.Popen[bytes]":
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr("backdrop.tracking.server.subprocess.Popen", remember)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(TrackingError, match=r"didn't start. Read .*server.log"), local_server(tmp_path):
        pass
    assert "file is not a database" in (tmp_path / "server.log").read_text()
    assert started[0].returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0].pid, 0)


def test_a_taken_port_is_said(mlflow_server: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is taken"), local_server(tmp_path, int(mlflow_server.rpartition(":")[2])):
        pass


def test_asking_whether_tracking_is_on_imports_no_mlflow() -> None:
    code = "import sys, backdrop.tracking as t, backdrop.tracking.server; t.enabled(); print('mlflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "False"
