"""Runs a task's work in a child process, and starts it again when it dies.

Under the settings that Kubeflow Pipelines 2.17 gives Argo, a container that dies isn't tried again, whatever the task's
retries say; those are for pods whose node is lost. So the task's own process survives its work.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from backdrop.common.errors import BackdropError, ProcessError, shorten
from backdrop.common.progress import log

T = TypeVar("T")

PAUSES_S = (10.0, 60.0, 300.0)  # before each further start
END_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG
MEMORY = "Give it more memory, or use smaller batches or fewer loading.workers"


@dataclass(frozen=True)
class Ended:
    """How the work ended: with a result, with an error that goes to the caller, or by dying (`died` says how)."""

    result: Any = None
    error: BaseException | None = None
    died: str = ""


def watched(task: str, work: Callable[[], T], pauses: Sequence[float] = PAUSES_S) -> T:
    """Runs work in a child process, and starts it again if it is killed or fails unforeseen.

    The work must resume what it has begun. It starts from this process's memory, so nothing that a fork breaks (CUDA,
    threads) may be in use yet. An error that the user can fix isn't tried again.

    Args:
        task: its name in messages.
        work: returns something that can be pickled.
        pauses: seconds before each further start, of which there is one for each.

    Raises:
        BackdropError: the work's own.
        SystemExit: the work's own.
        ProcessError: if it died at each start.
    """
    starts = len(pauses) + 1
    for number, pause in enumerate((*pauses, None), 1):
        ended = _run(work)
        if ended.error is not None:
            raise ended.error
        if not ended.died:
            result: T = ended.result
            return result
        if pause is not None:
            log(f"{task} {ended.died}; starting it again in {pause:.0f} s (start {number + 1} of {starts})")
            time.sleep(pause)
    remedy = MEMORY if "signal" in ended.died else "See the tracebacks in its log"
    raise ProcessError(f"{task} died at each of {starts} starts; the last time it {ended.died}", remedy)


def _run(work: Callable[[], Any]) -> Ended:
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ended")
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _work(work, path, parent)
        try:
            status = os.waitpid(child, 0)[1]
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if os.WIFSIGNALED(status):
            return Ended(died=_killed(os.WTERMSIG(status)))
        code = os.WEXITSTATUS(status)
        if code or not path.is_file():
            return Ended(died=f"ended with exit code {code}")
        ended: Ended = pickle.loads(path.read_bytes())  # noqa: S301  # our own child wrote it
        return ended


def _work(work: Callable[[], Any], path: Path, parent: int) -> NoReturn:
    """The child process."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    code = 1
    try:
        try:
            ended = Ended(result=work())
        except (BackdropError, SystemExit) as error:
            ended = Ended(error=error)
        except Exception as error:
            traceback.print_exc()
            ended = Ended(died=f"failed ({type(error).__name__}: {shorten(error)})")
        path.write_bytes(pickle.dumps(ended))
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    except BaseException:  # such as of a full disk
        traceback.print_exc()
    finally:
        os._exit(code)


def _killed(number: int) -> str:
    name = signal.Signals(number).name
    return f"was killed by signal {number} ({name}{': out of memory?' if number == signal.SIGKILL else ''})"
