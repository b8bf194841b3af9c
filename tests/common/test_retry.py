"""Waiting for a server that is away, by the clock."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from backdrop.common.retry import RetryPolicy, repeat, retry, trying, workers

QUICK = RetryPolicy(0.01, 0.04, give_up_s=0.2)


def failing(times: float, error: Exception | None = None) -> Callable[[], int]:
    """What fails so often, and then gives the number of calls."""
    calls = itertools.count(1)

    def act() -> int:
        if (call := next(calls)) <= times:
            raise error or ConnectionError(f"call {call}")
        return call

    return act


def always(error: Exception) -> bool:
    return True


def test_pauses_double_up_to_the_longest() -> None:
    policy = RetryPolicy(1.0, 30.0)
    assert list(itertools.islice(policy.pauses(), 7)) == [1, 2, 4, 8, 16, 30, 30]
    drawn = list(itertools.islice(RetryPolicy(1.0, 2.0, jitter=True).pauses(), 50))
    assert all(2 <= pause <= 4 for pause in drawn[1:])
    assert len(set(drawn)) > 40


def test_it_asks_again_and_says_so_once() -> None:
    heard: list[Exception] = []
    assert retry(failing(3), QUICK, always, heard.append) == 4
    assert [str(error) for error in heard] == ["call 1"]


def test_what_will_not_pass_is_raised_at_once() -> None:
    heard: list[Exception] = []
    with pytest.raises(ConnectionError, match="call 1"):
        retry(failing(9), QUICK, lambda error: False, heard.append)
    assert heard == []


def test_attempts_are_counted() -> None:
    with pytest.raises(ConnectionError, match="call 3"):
        retry(failing(9), RetryPolicy(0.0, 0.0, attempts=3), always)


def test_patience_is_counted_from_the_first_failure() -> None:
    served = iter([0.5])

    def act() -> str:
        for pause_s in served:
            time.sleep(pause_s)
            raise ConnectionError("cut after a long time")
        return "well"

    assert retry(act, QUICK, always) == "well"
    start = time.monotonic()
    with pytest.raises(ConnectionError):
        retry(failing(10**9), QUICK, always)
    assert 0.1 < time.monotonic() - start < 5


def test_the_log_says_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    policy = RetryPolicy(0.0, 0.0, give_up_s=3600)
    retry(failing(2), policy, always, trying("It doesn't answer", policy, str))
    assert capsys.readouterr().err == "It doesn't answer (call 1); retrying for 60 minutes\n"


def test_an_interrupt_ends_a_wait_at_once() -> None:
    code = (
        "from backdrop.common.retry import RetryPolicy, retry\n"
        "def act(): raise OSError\n"
        "retry(act, RetryPolicy(60.0, 60.0), lambda error: True, lambda error: print('waiting', flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert time.monotonic() - start < 10
    assert "KeyboardInterrupt" in said


@pytest.mark.parametrize("once_more", [False, True])
def test_what_is_repeated_ends_when_it_is_closed(once_more: bool) -> None:
    closing, calls = threading.Event(), []

    def act() -> None:
        calls.append(closing.is_set())
        if len(calls) == 3:
            closing.set()

    repeat(act, RetryPolicy(0.001, 60.0), closing, lambda error: None, once_more)
    assert calls == [False, False, False, *([True] if once_more else [])]


def test_each_outage_is_reported_once_and_pauses_start_short_after_it() -> None:
    closing, outages, errors = threading.Event(), enumerate("x..xxx."), []

    def act() -> None:
        number, now = next(outages, (0, None))
        if now is None:
            closing.set()
        elif now == "x":
            raise ConnectionError(number)

    start = time.monotonic()
    repeat(act, RetryPolicy(0.01, 60.0), closing, errors.append)
    assert [error.args for error in errors] == [(0,), (3,)]  # the first of each
    assert time.monotonic() - start < 10


def test_closing_ends_a_pause() -> None:
    closing = threading.Event()
    threading.Timer(0.1, closing.set).start()
    start = time.monotonic()
    repeat(lambda: None, RetryPolicy(60.0, 60.0), closing, lambda error: None)
    assert time.monotonic() - start < 30


def test_an_interrupt_ends_the_waits_of_workers_too() -> None:
    begun, endless = threading.Semaphore(0), RetryPolicy(60.0, 60.0)
    futures = []

    def wait_for_ever(_: int) -> None:
        begun.release()
        retry(failing(10**9), endless, always)

    def interrupted() -> None:
        with workers(2) as pool:
            futures.extend(pool.submit(wait_for_ever, number) for number in range(9))
            for _ in range(2):
                begun.acquire()
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert sum(future.cancelled() for future in futures) == 7
    assert all(isinstance(future.exception(), ConnectionError) for future in futures[:2])
