"""What you see of work under way: on a real terminal a bar above which lines stay, elsewhere plain lines."""

import contextlib
import os
import re
import sys
import time

import pytest

from backdrop.common import progress as module
from backdrop.common.progress import Work, clock, duration, log, only_log, progress, stage, waiting, working
from tests.fakes.terminal import Terminal


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat's pause that a test can wait for."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(module, "DELAY_S", 0.05)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of a known kind and width."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_a_pipe_gets_a_line_when_all_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("checking photographs", 2) as advance:
        advance()
        advance("b.jpg")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "checking photographs 2/2 in 0 s\n")


def test_a_pipe_is_never_silent_for_long_and_hears_no_more_than_that(
    often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("checking photographs", 9) as advance:
        advance("a.jpg")
        time.sleep(0.45)  # no piece is finished in all this time
    shown = capsys.readouterr().err.splitlines()
    assert 1 <= len(shown) <= advance.seconds / 0.1
    assert set(shown) == {"checking photographs 1/9  a.jpg"}


def test_a_line_of_any_kind_puts_the_heartbeat_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 1.0)
    with working("starting Ray"):
        for number in range(12):
            log(f"line {number}")
            time.sleep(0.1)
    assert "starting Ray" not in capsys.readouterr().err


def test_work_without_pieces_shows_its_time(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with working("starting Ray"):
        time.sleep(0.25)
    assert capsys.readouterr().err.splitlines()[0] == "starting Ray (0:00)"


def test_a_stage_stands_before_what_is_done_in_it(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with working("training"), stage("epoch 4/32", lambda: 130.0), progress("step", 40, lasting=False) as advance:
        advance()
        time.sleep(0.25)
    assert capsys.readouterr().err.splitlines()[0] == "epoch 4/32 step 1/40  ETA 2:10"


def test_a_failure_says_nothing_of_being_done(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(KeyError), progress("checking photographs", 1) as advance:
        advance()
        raise KeyError
    assert capsys.readouterr().err == ""


def test_work_that_prints_by_itself_counts_as_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 1.0)
    with working("outside"):
        with waiting(""):
            time.sleep(1.2)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_silent_work_hides_what_is_outside(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with working("outside"), waiting(""):
        time.sleep(0.25)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_and_lines_that_stay(often: None) -> None:
    long = "a line that is far longer than the terminal is wide " * 4
    with Terminal() as terminal, progress("checking photographs", 3) as advance:
        advance("a.jpg")
        terminal.wait_for("━")
        log(long.strip())
        log("[a line] with brackets")
        advance()
        advance()
    bar, _, rest = terminal.text.partition("━")
    assert "checking photographs" in bar
    assert "1/3" in rest
    assert "a.jpg" in rest
    *logged, done = terminal.shown
    assert logged == [long.strip(), "[a line] with brackets"], "no line break that would be copied with it"
    assert re.fullmatch(r"checking photographs 3/3 in \d+ s", done), "no bar is left below"
    assert "\x1b[?25h" in terminal.text, "the cursor is shown again"


def test_short_work_flashes_no_bar() -> None:
    with Terminal() as terminal, progress("checking photographs", 1) as advance:
        advance()
    assert terminal.text == "checking photographs 1/1 in 0 s\r\n"


def test_a_terminal_hears_of_hidden_work_in_lines(often: None) -> None:
    with Terminal() as terminal, waiting("backdrop train"):
        time.sleep(0.25)
    assert terminal.lines[0] == "backdrop train (0:00)"
    assert "━" not in terminal.text


def test_no_bar_is_in_the_way_of_what_a_command_prints(often: None) -> None:
    with Terminal() as terminal, waiting("backdrop train"):
        with working("training"):
            terminal.wait_for("━")
        print("member: Dice 0.9", file=sys.stderr)
        time.sleep(0.08)
    assert "━" in terminal.text
    assert not any("backdrop train" in line and "━" in line for line in terminal.lines), "hidden work has no bar"
    assert "member: Dice 0.9" in terminal.shown
    assert not any("━" in line for line in terminal.shown)


def test_a_fork_takes_neither_bar_nor_lock(often: None) -> None:
    with Terminal() as terminal, working("training"):
        terminal.wait_for("━")
        with module._screen._lock:
            child = os.fork()
            if child == 0:
                log("from the child")
                os._exit(0 if module._screen._live is None else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert "from the child" in terminal.text


def test_a_process_beside_another_shows_lines_only(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_screen", module._Screen())
    only_log()
    with Terminal() as terminal, working("training"):
        time.sleep(0.25)
        log("a line")
    assert terminal.text == "a line\r\n"


def test_eta_follows_from_what_was_measured() -> None:
    work = Work("checking photographs", 100)
    assert work.left_s() is None
    work()
    work.began -= 1
    assert work.left_s() is None, "one second says little"
    work.done, work.began = 25, time.monotonic() - 50
    assert work.left_s() == pytest.approx(150, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "hands", "words"),
    [
        (0.4, "0:00", "0 s"),
        (7, "0:07", "7 s"),
        (59.6, "1:00", "1:00"),
        (65, "1:05", "1:05"),
        (7209, "2:00:09", "2:00:09"),
    ],
)
def test_times(seconds: float, hands: str, words: str) -> None:
    assert (clock(seconds), duration(seconds)) == (hands, words)
