"""Runs an MLflow server on this machine, for tasks in containers."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from backdrop.common import processes
from backdrop.common.errors import TrackingError
from backdrop.common.progress import log
from backdrop.tracking import SQLITE
from backdrop.tracking.store import artifact_folder

HOST = "127.0.0.1"
START_S = 600.0  # generous: a busy machine takes half a minute, and a server that exits is noticed at once
LOG_S = 15.0  # between two log lines while it starts
# The job runner is eight more processes that outlive the server, and we use no jobs.
SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextlib.contextmanager
def store_server(database: Path, log_file: Path) -> Iterator[str]:
    """Runs `mlflow server` over the embedded store while the block lasts, for clients that can open its `mlruns`.

    Args:
        database: the store's, prepared.
        log_file: for the server's output.

    Yields:
        Its address, for MLFLOW_TRACKING_URI.

    Raises:
        TrackingError: if it doesn't start.
    """
    artifacts = ("--no-serve-artifacts", "--default-artifact-root", str(artifact_folder(database)))
    with serve(database, artifacts, log_file, _free_port()) as address:
        yield address


@contextlib.contextmanager
def serve(database: Path, artifacts: Sequence[str], log_file: Path, port: int) -> Iterator[str]:
    """Runs `mlflow server` while the block lasts.

    Args:
        database: of its runs and models.
        artifacts: options that say where artifacts are.
        log_file: for its output.
        port: a free one of 127.0.0.1.

    Yields:
        Its address, for MLFLOW_TRACKING_URI.

    Raises:
        TrackingError: if it doesn't start.
    """
    address = f"{HOST}:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"{SQLITE}{database}", *artifacts),
        *("--host", HOST, "--port", str(port), "--workers", "1", "--allowed-hosts", f"{address},localhost:{port}"),
    ]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with (
        log_file.open("ab") as output,
        # In a session of its own, it and its workers end together, and Ctrl-C doesn't reach them.
        processes.session(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **SETTINGS}
        ) as server,
    ):
        _wait_until_healthy(server, port, log_file)
        yield f"http://{address}"


def _wait_until_healthy(server: "subprocess.Popen[bytes]", port: int, log_file: Path) -> None:
    start = logged = time.monotonic()
    while not is_healthy(port):
        now = time.monotonic()
        if server.poll() is not None or now - start > START_S:
            raise TrackingError(f"The MLflow server at {HOST}:{port} didn't start", f"See {log_file}")
        if now - logged > LOG_S:
            logged = now
            log(f"waiting for the MLflow server, {now - start:.0f} s so far")
        time.sleep(0.2)


def is_healthy(port: int) -> bool:
    """Whether a server answers at this port of 127.0.0.1."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
