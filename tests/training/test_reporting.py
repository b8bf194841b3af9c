"""What a training shows: a lasting line for each epoch, and how long it still takes."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backdrop.common import progress
from backdrop.steps.train import train
from backdrop.training import trainer
from backdrop.training.reporting import EpochReporter
from backdrop.training.step import train_step
from tests.conftest import SMALL
from tests.fakes.terminal import Terminal

LINE = re.compile(
    r"^epoch (\d)/3  loss \d+\.\d{4}  Dice [01]\.\d{4}  lr \d\.\de-\d  \d+\.\d img/s(  ETA \d+:\d\d)?$", re.MULTILINE
)
THREE = (*SMALL, "epochs=3")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of a known kind and width."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_a_pipe_gets_a_line_for_each_epoch(
    data: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), THREE)
    out, err = capsys.readouterr()
    assert out == ""
    shown = [(line[1], bool(line[2])) for line in LINE.finditer(err)]
    assert shown == [("1", True), ("2", True), ("3", False)], "nothing is left after the last epoch"
    assert re.search(r"^judging photographs (\d+)/\1 in \d+ s$", err, re.MULTILINE)


def test_a_terminal_gets_the_same_lines_below_which_a_bar_moves(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def slow_step(*args: Any) -> Any:
        time.sleep(0.5)  # so long that the bar is drawn
        return train_step(*args)

    monkeypatch.setattr(progress, "DELAY_S", 0.01)
    monkeypatch.setattr(trainer, "train_step", slow_step)
    with Terminal() as terminal:
        train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), THREE)
    assert [line[1] for text in terminal.shown if (line := LINE.match(text))] == ["1", "2", "3"]
    bars = [line for line in terminal.lines if "━" in line]
    assert any(re.match(r"epoch \d/3 step .*━ +\d+/\d+", line) for line in bars)
    assert not any("━" in line for line in terminal.shown)


def test_a_resumed_training_counts_from_where_it_resumed(
    data: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside its second epoch, it knows no epoch's length before the third."""
    settings = (*SMALL, "epochs=4", "checkpoint.every_steps=1", "batch_size=1")
    steps = []

    def step_or_stop(*args: Any) -> Any:
        steps.append(args)
        time.sleep(0.2)  # the checkpoint before is written meanwhile
        if len(steps) == 8:  # four are an epoch
            raise KeyboardInterrupt
        return train_step(*args)

    monkeypatch.setattr(trainer, "train_step", step_or_stop)
    with pytest.raises(KeyboardInterrupt):
        train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), settings)
    monkeypatch.setattr(trainer, "train_step", train_step)
    capsys.readouterr()
    train(str(data), str(plan), "tiny", 0, str(tmp_path / "m"), settings)
    err = capsys.readouterr().err
    assert re.search(r"^Resuming in epoch 2, after \d+ steps$", err, re.MULTILINE)
    shown = {line[6]: "ETA" in line for line in err.splitlines() if re.match(r"epoch \d/4  loss", line)}
    assert shown == {"2": False, "3": True, "4": False}


def test_eta_is_the_median_of_the_last_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("backdrop.training.reporting.time", SimpleNamespace(monotonic=lambda: now[0]))
    reporter = EpochReporter(20)

    def run(epoch: int, seconds: float, whole: bool = True) -> None:
        with reporter.epoch(epoch, whole):
            now[0] += seconds

    run(3, 1.0, whole=False)
    assert reporter.eta_s() is None, "a resumed epoch says nothing of an epoch's length"
    run(4, 100.0)
    assert reporter.eta_s() == 1500
    for epoch, seconds in enumerate((10, 10, 12, 11, 99), start=5):
        run(epoch, seconds)
    assert reporter.eta_s() == 10 * 11
    with reporter.epoch(10, True):
        now[0] += 4
        assert reporter.eta_s() == 7 + 9 * 11
        now[0] += 50  # far longer than any: what is left is at least the epochs that haven't begun
        assert reporter.eta_s() == 9 * 11
