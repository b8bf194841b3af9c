"""The service as a process of its own: `backdrop serve`."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backdrop.serving.champion import Champion
from backdrop.steps.promote import override, promote
from tests.serving.conftest import Reply, Service
from tests.tracking.conftest import clean, workspace  # noqa: F401  # fixtures
from tests.tracking.workspace import Workspace

NAME = "cars"


@pytest.fixture
def registered(
    clean: None,  # noqa: F811  # a fixture
    workspace: Workspace,  # noqa: F811  # a fixture
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Workspace]:
    """Two versions of a model on a server, the first is the champion."""
    from tests.fakes.mlflow import local_server

    with local_server(tmp_path_factory.mktemp("mlflow")) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        workspace.register(NAME, 1, 0.95)
        promote(str(workspace.data), NAME)
        workspace.register(NAME, 2, 0.93)
        yield workspace


@contextlib.contextmanager
def started(tmp_path: Path, *options: str) -> Iterator[tuple[Service, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "backdrop", "serve", f"models:/{NAME}@champion", "--port", "0", *options]
    log = tmp_path / "serve.log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, text=True) as process:
        try:
            wait(
                lambda: re.search(r"http://127.0.0.1:(\d+)/", log.read_text()) is not None or process.poll() is not None
            )
            (port,) = re.findall(r"http://127.0.0.1:(\d+)/", log.read_text())
            service = Service(int(port), Champion(f"models:/{NAME}@champion"))
            wait(lambda: service.get("/readyz").status == 200)
            yield service, process
        finally:
            process.kill()


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.thorough
def test_sigterm_lets_it_finish_and_refuse(registered: Workspace, tmp_path: Path, png: bytes) -> None:
    with started(tmp_path) as (service, process), ThreadPoolExecutor() as pool:
        slow = threading.Event()

        def drip() -> Iterator[bytes]:
            yield png[:50]
            slow.wait()
            yield png[50:]

        under_way = pool.submit(service.post, "/v1/mask", drip())
        wait(lambda: "\nbackdrop_requests_in_progress 1.0" in service.get("/metrics").body.decode())
        process.send_signal(signal.SIGTERM)
        wait(lambda: service.get("/readyz").status == 503)
        reply = service.post("/v1/mask", png)
        assert (reply.status, reply.json["error"]) == (503, "This server is about to stop")
        assert process.poll() is None
        slow.set()
        assert under_way.result().status == 200
        assert process.wait(30) == 0
    lines = (tmp_path / "serve.log").read_text().splitlines()
    assert not [line for line in lines if "Traceback" in line or "rror" in line.replace('"error"', "")]


@pytest.mark.slow
def test_the_champion_is_switched_twenty_times_under_load(registered: Workspace, tmp_path: Path, png: bytes) -> None:
    with started(tmp_path) as (service, _), ThreadPoolExecutor(4) as pool:
        ending = threading.Event()

        def keep_asking() -> list[Reply]:
            replies = []
            while not ending.is_set():
                replies.append(service.post("/v1/mask", png))
            return replies

        askers = [pool.submit(keep_asking) for _ in range(4)]
        for turn in range(20):
            number = 2 - turn % 2
            override(NAME, number, f"turn {turn}")
            wait(lambda: service.get("/readyz").json["model"] == f"models:/{NAME}/{number}")  # noqa: B023  # at once
        ending.set()
        replies = [reply for asker in askers for reply in asker.result()]
    assert {reply.status for reply in replies} == {200}
    masks = {reply.headers["backdrop-model"]: reply.body for reply in replies}
    assert set(masks) == {f"models:/{NAME}/1", f"models:/{NAME}/2"}
    print(f"{len(replies)} requests, {os.cpu_count()} cores")


@pytest.mark.thorough
def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "backdrop", "serve", f"models:/{NAME}@champion", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]  # after a heartbeat, on a busy machine
    assert re.fullmatch(rf"error: 127.0.0.1:{port} can't be listened at .* Choose others by --host and --port.", said)
