"""Processes that end with the one that started them, however it is told to end."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

PATIENCE_S = 20.0


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """A SIGTERM ends the block as an interrupt would; only the main thread can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end(process: "subprocess.Popen[Any]", kindly: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process and all of its group, kindly at first; none is left.

    Args:
        process: the first of a session of its own.
        kindly: what lets them clean up.
    """
    _signal(process, kindly)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    _signal(process, signal.SIGKILL)  # whoever of the group didn't follow
    process.wait()


def _signal(process: "subprocess.Popen[Any]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
