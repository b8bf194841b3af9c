"""What the user sees while a pipeline runs."""

import io

import pytest
from rich.console import Console

from backdrop.local import console
from backdrop.local.console import Screen, clock


def make(terminal: bool = False) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, force_terminal=terminal, width=80), 3), text


def test_a_line_for_each_task() -> None:
    shown, text = make()
    with shown:
        shown.started("check")
        shown.said("check", "check photographs 5/5")
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
        shown.said("train-tiny-0", "[KFP Executor] Looking for component")
        shown.said("train-tiny-0", "tiny epoch 3/10 loss 0.5 dice 0.9")
        monkeypatch.setattr(console, "HEARTBEAT_S", 30.0)
        shown.said("train-tiny-0", "tiny epoch 4/10 loss 0.4 dice 0.9")
    assert "epoch 3/10" in text.getvalue()
    assert "epoch 4/10" not in text.getvalue()
    assert "KFP" not in text.getvalue()


def test_own_error_is_one_line() -> None:
    shown, text = make()
    with shown:
        shown.started("split")
        for line in (
            "Traceback (most recent call last):",
            "  …",
            "backdrop.common.errors.PlanError: Too few [objects]. Add some.",
        ):
            shown.said("split", line)
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
            shown.said("train-tiny-0", f"line {number}")
        shown.said("train-tiny-0", "tiny epoch 3/10 loss [/b]")
        for line in ("[KFP Executor x INFO]: Got executor_input:", "{", '    "data": "/a/1/2"', "}"):
            shown.said("train-tiny-0", line)
        shown.said("train-tiny-0", "RuntimeError: 3/4 of the memory")
        shown.finished("train-tiny-0", False)
    assert shown.tasks["train-tiny-0"].error is None
    shown_lines = [line.strip() for line in text.getvalue().splitlines()[1:]]
    assert shown_lines == [*(f"line {number}" for number in range(16, 20)), "RuntimeError: 3/4 of the memory"]


def test_terminal_gets_a_live_line() -> None:
    shown, text = make(terminal=True)
    with shown:
        shown.started("train-tiny-0")
        shown.said("train-tiny-0", "tiny epoch 3/10")
        shown._live.refresh()
        shown.finished("train-tiny-0", True)
    assert "tiny epoch 3/10" in text.getvalue()
    assert "done in" in text.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1:00"), (65, "1:05"), (7209, "2:00:09")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
