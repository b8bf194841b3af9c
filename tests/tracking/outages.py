"""Servers that come and go: PostgreSQL as Debian packages it, and an MLflow server that is stopped again and again."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from backdrop.common import processes
from backdrop.tracking.server import HOST, SETTINGS, is_healthy
from tests.fakes.http import free_port

DEBIAN = Path("/usr/lib/postgresql")  # its programs are below, and not on the PATH
UNPRIVILEGED = "postgres"  # the package's user; PostgreSQL refuses to run as root
START_S = 120.0


def postgresql_programs() -> Path | None:
    """The folder of PostgreSQL's programs; None if they or Python's driver aren't installed."""
    folders = sorted(path.parent for path in DEBIAN.glob("*/bin/initdb"))
    return folders[-1] if folders and find_spec("psycopg2") else None


@contextlib.contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """Runs a new PostgreSQL server while the block lasts.

    Yields:
        The address of a database.
    """
    user = UNPRIVILEGED if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        if user:
            shutil.chown(name, user)
        make = [programs / "initdb", "-D", f"{name}/data", "-U", "backdrop", "-A", "trust", "--no-sync"]
        subprocess.run(make, check=True, cwd=name, user=user, stdout=subprocess.DEVNULL)
        port = free_port()
        serve = [str(programs / "postgres"), "-D", f"{name}/data", "-p", str(port), "-k", name, "-h", HOST]
        with processes.session(serve, signal.SIGINT, cwd=name, user=user, stderr=subprocess.DEVNULL):
            ready = [programs / "pg_isready", "-q", "-h", HOST, "-p", str(port)]
            _wait(lambda: subprocess.run(ready).returncode == 0)
            yield f"postgresql+psycopg2://backdrop@{HOST}:{port}/postgres"


class Unsteady:
    """An MLflow server with two workers; while it is disturbed, it is stopped and started again and again."""

    def __init__(self, database: str, folder: Path, seed: int) -> None:
        self.port, self.stops = free_port(), 0
        self.ended, self._disturbed = threading.Event(), threading.Event()
        self._database, self._folder, self._chance = database, folder, random.Random(seed)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    @contextlib.contextmanager
    def disturbed(self) -> Iterator[None]:
        """Stops it again and again while the block lasts; after that it answers."""
        self._disturbed.set()
        yield
        self._disturbed.clear()
        self.wait()

    def wait(self) -> None:
        """Waits until it answers."""
        _wait(lambda: is_healthy(self.port))

    def run(self) -> None:
        """Runs it until it is ended, stopped in turn by SIGTERM and SIGKILL."""
        for number in itertools.cycle([signal.SIGTERM, signal.SIGKILL]):
            with self._start() as server:
                self.wait()
                stop = time.monotonic() + self._chance.uniform(3, 10)
                while time.monotonic() < stop or not self._disturbed.is_set():
                    if self.ended.wait(0.1):
                        return
                os.killpg(server.pid, number)
                self.stops += 1

    @contextlib.contextmanager
    def _start(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database, "--workers", "2"),
            *("--artifacts-destination", str(self._folder / "artifacts"), "--host", HOST, "--port", str(self.port)),
        ]
        environment = {**os.environ, **SETTINGS, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (
            (self._folder / "server.log").open("ab") as log,
            processes.session(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as server,
        ):
            yield server


@contextlib.contextmanager
def unsteady_server(database: str, folder: Path, seed: int) -> Iterator[Unsteady]:
    """Runs an MLflow server while the block lasts.

    Args:
        database: its address.
        folder: for artifacts and the server's log.
        seed: of the times when it is stopped.
    """
    server = Unsteady(database, folder, seed)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.wait()
        yield server
    finally:
        server.ended.set()
        thread.join()


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not ready():
        assert time.monotonic() < end, "A server doesn't start"
        time.sleep(0.2)
