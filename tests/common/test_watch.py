"""A task's work that dies, in every way that it can."""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common.errors import DataError, ProcessError
from backdrop.common.watch import watched
from backdrop.steps.train import train
from tests.conftest import SMALL

NO_PAUSE = (0.0, 0.0, 0.0)


@pytest.fixture
def starts(tmp_path: Path) -> Callable[[], int]:
    """Counts its calls, also in other processes."""

    def count() -> int:
        with (tmp_path / "starts").open("ab") as file:
            file.write(b"x")
        return (tmp_path / "starts").stat().st_size

    return count


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def fail() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_result_that_cannot_be_written_is_no_result() -> None:
    def work() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return bytes(1000)

    with pytest.raises(ProcessError, match=r"^train died at each of 2 starts; the last time it ended with exit code 1"):
        watched("train", work, (0.0,))


@pytest.mark.parametrize(
    ("die", "said"),
    [
        (lambda: kill(signal.SIGKILL), "was killed by signal 9 (SIGKILL: out of memory?)"),
        (lambda: kill(signal.SIGTERM), "was killed by signal 15 (SIGTERM)"),
        (lambda: kill(signal.SIGXCPU), "was killed by signal 24 (SIGXCPU)"),
        (fail, "failed (RuntimeError: CUDA error: an illegal memory access was encountered)"),
        (lambda: os._exit(139), "ended with exit code 139"),
    ],
)
def test_what_dies_is_started_again(
    die: Callable[[], None], said: str, starts: Callable[[], int], capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        number = starts()
        if number < 3:
            die()
        return number

    assert watched("train", work, NO_PAUSE) == 3
    lines = [line for line in capfd.readouterr().err.splitlines() if "starting it again" in line]
    assert [line.split("; ")[0].partition("train ")[2] for line in lines] == [said, said]
    assert [line.partition("in 0 s ")[2] for line in lines] == ["(start 2 of 4)", "(start 3 of 4)"]


def test_what_dies_always_is_given_up(starts: Callable[[], int], tmp_path: Path) -> None:
    def work() -> None:
        starts()
        kill(signal.SIGKILL)

    with pytest.raises(
        ProcessError, match=r"train died at each of 4 starts; .* signal 9 .* Give it more memory"
    ) as caught:
        watched("train", work, NO_PAUSE)
    assert (tmp_path / "starts").stat().st_size == 4
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("error", [DataError("a.jpg is empty", "Draw it"), SystemExit(2)])
def test_a_refusal_is_not_tried_again(error: BaseException, starts: Callable[[], int], tmp_path: Path) -> None:
    def work() -> None:
        starts()
        raise error

    with pytest.raises(type(error)) as caught:
        watched("train", work, NO_PAUSE)
    assert str(caught.value) == str(error)
    assert (tmp_path / "starts").stat().st_size == 1


def test_the_work_ends_with_its_task(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, time
from backdrop.common.watch import watched
def work():
    pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
    time.sleep(1000)
watched("train", work)
"""
    task = subprocess.Popen([sys.executable, "-c", code])
    pid = tmp_path / "pid"
    while not (pid.is_file() and pid.read_text()):
        time.sleep(0.05)
    task.kill()
    task.wait()
    ended = time.monotonic()
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() - ended < 120:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid.read_text()}").exists()


KILLED = """
import sys
from backdrop.common.watch import watched
from backdrop.steps.train import train
data, plan, out, *sets = sys.argv[1:]
watched("train", lambda: train(data, plan, "tiny", 0, out, sets), [0.0] * 50)
"""


@pytest.mark.thorough
def test_a_training_that_is_killed_at_random_has_the_bits_of_one_that_was_not(
    data: Path, plan: Path, tmp_path: Path
) -> None:
    sets = (*SMALL, "epochs=6", "checkpoint.every_steps=1")
    whole = train(str(data), str(plan), "tiny", 0, str(tmp_path / "whole"), sets)
    chance, ended = random.Random(0), threading.Event()

    def children(parent: int) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    command = [sys.executable, "-c", KILLED, str(data), str(plan), str(tmp_path / "killed"), *sets]
    with subprocess.Popen(command) as task:

        def murder() -> None:
            kills = 0
            while not ended.wait(chance.uniform(0.5, 3)) and kills < 8:
                for child in children(task.pid):
                    os.kill(child, chance.choice((signal.SIGKILL, signal.SIGTERM)))
                    kills += 1

        murderer = threading.Thread(target=murder)
        murderer.start()
        assert task.wait() == 0
        ended.set()
        murderer.join()
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not whole.reused
