"""Ends child processes together with their parent, also on SIGTERM."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 20.0


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turns SIGTERM into SystemExit in the block, so that it cleans up; works only in the main thread."""
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


def end(process: "subprocess.Popen[Any]", graceful: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process and its process group: gracefully first, then with SIGKILL.

    Args:
        process: the leader of its own session.
        graceful: the first signal, which lets the processes clean up.
    """
    _signal(process, graceful)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _signal(process, signal.SIGKILL)  # the rest of the group
    process.wait()


def _signal(process: "subprocess.Popen[Any]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
