"""Child processes that end with their parent, also on SIGTERM and SIGKILL, and the CPUs that they may use."""

import contextlib
import math
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 20.0
# Reads a process group's number, waits until its input ends, because the parent has, and then ends the group.
GUARD = """read group && { read end; kill -s TERM -- "-$group"; sleep 5; kill -s KILL -- "-$group"; }"""

CGROUP = Path("/sys/fs/cgroup")  # of the container


def cpus() -> int:
    """The CPUs that this process may use: those of its affinity, or fewer if its container's limit is below that."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return min(own, cpu_limit() or own)


def cpu_limit() -> int | None:
    """The limit of this container's CPUs, rounded up; None without one.

    A container sees all CPUs of its node, and a thread for each of them would wait for the others most of the time.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError):  # another version, or "max"
            quota, period = map(int, " ".join((CGROUP / name).read_text(encoding="utf-8") for name in names).split())
            return max(1, math.ceil(quota / period)) if quota > 0 else None
    return None


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turns SIGTERM into SystemExit in the block, so that it cleans up; works only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    codes: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        codes.append(128 + number)
        raise SystemExit(codes[0])

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as error:
        if codes:
            error.code = codes[0]  # Ray makes another of it
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def session(
    command: Sequence[str], graceful: signal.Signals = signal.SIGTERM, **options: Any
) -> Iterator["subprocess.Popen[Any]"]:
    """Runs a command in a session of its own, which ends with the block, and with this process if that is killed.

    A small shell waits on a pipe for the end of this process. The kernel's own signal at a parent's death wouldn't do:
    it reaches one process, not those that the process has started.

    Args:
        command: the program and its arguments.
        graceful: the first signal, which lets the processes clean up.
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen(  # noqa: S603  # GUARD is ours
        ["/bin/sh", "-c", GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        encoding="utf-8",
    ) as guard:
        assert guard.stdin is not None
        try:
            with subprocess.Popen(command, start_new_session=True, **options) as process:  # noqa: S603  # from our callers
                try:
                    print(process.pid, file=guard.stdin, flush=True)
                    yield process
                finally:
                    end(process, graceful)
        finally:
            guard.kill()


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
