"""A local run that ends, or is killed: nothing that it started is left, and no other run has its folder meanwhile."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.local.run import own_folder

LONG = ("batch_size=1", "epochs=10000", "schedule=[{kind: constant, epochs: 1, lr: 1e-3}]")
SECRETS = ("AWS_SECRET_ACCESS_KEY", "KFP_EXISTING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN")
SECRET = "hunter2-0815-4711"
COMMAND = (sys.executable, "-m", "backdrop", "pipeline", "run", "tiny", "--folds", "0", "--no-promote")


def processes_of(folder: Path) -> list[str]:
    """The commands of all processes that name a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in command:
            pids.append(command)
    return pids


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.thorough),
    ],
)
def test_nothing_is_left(
    number: signal.Signals,
    code: int,
    make_dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BACKDROP_TRACKING")
    for name in SECRETS:
        monkeypatch.setenv(name, SECRET)
    data, work = make_dataset(objects=6, views=2), tmp_path / "work"
    settings = [part for one in LONG for part in ("--set", one)]
    command = [*COMMAND, *settings, "--data", str(data), "--work", str(work)]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) as run,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(run.kill)  # whatever fails
        while not list(work.glob("members/*/metrics.jsonl")):  # it trains
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert len(processes_of(work)) > 1  # the run and the task
        assert not [command for command in processes_of(Path()) if SECRET in command]
        second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert second.returncode == 2
        said = second.stderr.splitlines()[-1]  # after a heartbeat, on a busy machine
        assert said.startswith(f"error: {work} is in use by `backdrop pipeline run` (process {run.pid} on ")
        assert said.endswith("). Wait until it ends, or use another --work.")
        run.send_signal(number)  # to it alone, not to its group as a terminal would
        assert run.wait() == code
    ended = time.monotonic()
    while number == signal.SIGKILL and processes_of(work):
        assert time.monotonic() - ended < 15
        time.sleep(0.1)
    assert processes_of(work) == []


def test_whatever_a_session_starts_ends_with_its_parent(tmp_path: Path) -> None:
    """Also what ignores SIGTERM, and the shell that watches."""
    tree = f"trap '' TERM; sh -c 'sleep 1000; : {tmp_path}' & sleep 1000; : {tmp_path}"
    code = f"""
import os, signal
from backdrop.common.processes import session
with session(["sh", "-c", {tree!r}]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    ended = time.monotonic()
    while processes_of(tmp_path):
        assert time.monotonic() - ended < 15
        time.sleep(0.1)


def test_two_runs_in_one_second_have_their_own_folders(tmp_path: Path) -> None:
    names = [own_folder(tmp_path / "runs").name for _ in range(5)]
    assert len(set(names)) == 5
    assert names == sorted(names)
