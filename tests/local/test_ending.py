"""A local run that is told to end: nothing that it started is left."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = ("batch_size=1", "epochs=10000", "schedule=[{kind: constant, epochs: 1, lr: 1e-3}]")
COMMAND = (sys.executable, "-m", "backdrop", "pipeline", "run", "tiny", "--folds", "0", "--no-promote")


def processes_of(folder: Path) -> list[str]:
    """The commands of all processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_nothing_is_left(
    number: signal.Signals,
    code: int,
    make_dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BACKDROP_TRACKING")
    data, work = make_dataset(objects=6, views=2), tmp_path / "work"
    settings = [part for one in LONG for part in ("--set", one)]
    command = [*COMMAND, *settings, "--data", str(data), "--work", str(work)]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    while not list(work.glob("members/*/metrics.jsonl")):  # it trains
        assert run.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    assert len(processes_of(work)) > 1  # the run and the task
    run.send_signal(number)  # to it alone, not to its group as a terminal would
    assert run.wait() == code
    assert processes_of(work) == []
