"""What the user sees while a pipeline runs."""

import io
import re
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import backdrop
from backdrop.local import console
from backdrop.local.console import Screen, Task
from tests.fakes.terminal import Terminal

SOURCES = sorted(Path(backdrop.__file__).parent.rglob("*.py"))


def make(terminal: bool = False) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, force_terminal=terminal, width=80), 3), text


def test_a_line_for_each_task() -> None:
    shown, text = make()
    with shown:
        shown.started("check")
        shown.printed("check", "check photographs 5/5")
        shown.finished("check", True)
        shown.started("split")
        shown.finished("split", True)
    lines = text.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["[1/3]", "check", "done", "in", "0", "s"],
        ["[2/3]", "split", "done", "in", "0", "s"],
    ]
    assert shown.tasks["check"].well


def test_heartbeat_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "HEARTBEAT_S", 0.0)
    shown, text = make()
    with shown:
        shown.started("train-tiny-0")
        shown.printed("train-tiny-0", "[KFP Executor] Looking for component")
        shown.printed("train-tiny-0", "tiny epoch 3/10 loss 0.5 dice 0.9")
        monkeypatch.setattr(console, "HEARTBEAT_S", 30.0)
        shown.printed("train-tiny-0", "tiny epoch 4/10 loss 0.4 dice 0.9")
    assert "epoch 3/10" in text.getvalue()
    assert "epoch 4/10" not in text.getvalue()
    assert "KFP" not in text.getvalue()


def test_a_silent_task_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "HEARTBEAT_S", 0.1)
    began = time.monotonic()
    shown, text = make()
    with shown:
        shown.started("train-tiny-0")
        shown.printed("train-tiny-0", "epoch 1/3 step 1/4")
        time.sleep(0.35)
    lines = text.getvalue().splitlines()
    assert 1 <= len(lines) <= (time.monotonic() - began) / 0.1
    assert lines[0].split() == ["[1/3]", "train-tiny-0", "0:00", "epoch", "1/3", "step", "1/4"]


def test_the_whole_run_has_its_own_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "HEARTBEAT_S", 0.0)
    text = io.StringIO()
    shown = Screen(Console(file=text, width=80), 3, lambda tasks, _: 60.0 * len(tasks))
    with shown:
        shown.started("train-tiny-0")
        shown.printed("train-tiny-0", "epoch 1/3  loss 0.5000  ETA 0:10")
    assert "  run ETA 1:00  epoch 1/3  loss 0.5000  ETA 0:10\n" in text.getvalue()


def test_what_a_task_says_of_itself() -> None:
    task = Task("train-tiny-0", 0.0)
    assert task.left_s(0.0) is None
    task.advance("decoding photographs 40/40 in 3 s", 0.0)
    assert not task.trains
    task.advance("epoch 3/32  loss 0.1234  Dice 0.9812  lr 6.0e-3  14.2 img/s  ETA 1:02:10", 100.0)
    assert task.trains
    assert (task.left_s(100.0), task.left_s(110.0)) == (3730, 3720)
    task.advance("epoch 32/32  loss 0.1234  Dice 0.9812  lr 6.0e-3  14.2 img/s", 200.0)
    assert task.left_s(200.0) is None
    task.advance("judging photographs 12/32", 201.0)
    assert task.judged_s is None
    task.advance("judging photographs 32/32 in 1:05", 202.0)
    assert task.judged_s == 65


LABEL = re.compile(r"""\b(?:working|progress|stage|in_threads)\([^"\n]*?f?"([^"]+)\"""")


@pytest.mark.parametrize("label", sorted({label for path in SOURCES for label in LABEL.findall(path.read_text())}))
def test_a_line_of_any_work_is_progress(label: str) -> None:
    shown = re.sub(r"{[^}]*}", "3", label)
    for line in (f"{shown} 3/40  ETA 0:10", f"{shown} (0:10)"):
        task = Task("evaluate", 0.0)
        screen = Screen(Console(file=io.StringIO()), 1)
        screen.tasks["evaluate"] = task
        screen.printed("evaluate", line)
        assert (task.progress, list(task.last)) == (line, [])


def test_own_error_is_one_line() -> None:
    shown, text = make()
    with shown:
        shown.started("split")
        for line in (
            "Traceback (most recent call last):",
            "  …",
            "error: Too few [objects]",
            "fix: Add some",
        ):
            shown.printed("split", line)
        shown.finished("split", False)
    assert "FAILED in 0 s" in text.getvalue()
    assert "    Too few [objects]. Add some.\n" in text.getvalue()
    assert "Traceback" not in text.getvalue()
    assert shown.tasks["split"].error == "Too few [objects]. Add some."


def test_other_failure_shows_its_last_lines() -> None:
    shown, text = make()
    with shown:
        shown.started("train-tiny-0")
        for number in range(20):
            shown.printed("train-tiny-0", f"line {number}")
        shown.printed("train-tiny-0", "tiny epoch 3/10 loss [/b]")
        for line in ("[KFP Executor x INFO]: Got executor_input:", "{", '    "data": "/a/1/2"', "}"):
            shown.printed("train-tiny-0", line)
        shown.printed("train-tiny-0", "RuntimeError: 3/4 of the memory")
        shown.finished("train-tiny-0", False)
    assert shown.tasks["train-tiny-0"].error is None
    shown_lines = [line.strip() for line in text.getvalue().splitlines()[1:]]
    assert shown_lines == [*(f"line {number}" for number in range(16, 20)), "RuntimeError: 3/4 of the memory"]


def test_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pseudo-terminal: the live line moves, is cut to the width, and goes; the task's line stays."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with Terminal() as terminal, Screen(Console(file=sys.stderr), 3, lambda *_: 65.0) as shown:
        shown.started("train-tiny-0")
        shown.printed("train-tiny-0", "epoch 3/10")
        terminal.wait_for("run ETA 1:05  epoch 3/10")
        shown.printed("train-tiny-0", "epoch 4/10  loss 0.1234  Dice 0.9812  lr 6.0e-3  14.2 img/s")
        terminal.wait_for("…")
        shown.finished("train-tiny-0", True)
    assert all(len(line) <= 60 for line in terminal.lines)
    assert [re.sub(r"\d+ s$", "0 s", line).split() for line in terminal.shown] == [
        ["[1/3]", "train-tiny-0", "done", "in", "0", "s"]
    ]
