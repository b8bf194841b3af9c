"""The errors that Backdrop raises on purpose.

Each says what is wrong (naming the file or key) and what to do about it. The command line prints both on one line and
exits with `exit_code`. Any other exception is a bug.
"""

import errno
import os
import re
from collections.abc import Sequence

from backdrop.common.redact import redact

ERROR, FIX = "error: ", "fix: "  # begin the lines that say what is wrong and what to do
SHOWN = 300  # maximum characters of a foreign message
# What to do about an OSError that no path or right is to blame for.
REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",  # a user's share of the disk
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or use another disk",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096",
}
# Python's words, and those of NumPy, torch, OpenCV and CUDA.
MEMORY = re.compile("MemoryError|allocate memory|Insufficient memory|out of memory", re.IGNORECASE)
NO_SCRATCH = "No usable temporary directory"  # tempfile's, in whatever asks it
HOMELESS = "Could not determine home directory"  # pathlib's, in whatever asks it

# The optional libraries, and the extra that brings each.
EXTRAS = {
    "mlflow": "tracking",
    "model_signing": "signing",
    "kfp": "pipelines",
    "kfp.kubernetes": "pipelines",
    "docker": "pipelines",
    "ray": "tuning",
    "optuna": "tuning",
    "kubernetes": "tuning",
    "fastapi": "serving",
    "uvicorn": "serving",
    "prometheus_client": "serving",
    "timm": "encoders",
}


class BackdropError(Exception):
    """An error that the user can fix. Passwords in addresses are removed.

    Args:
        what: what is wrong, naming the file or key.
        remedy: what to do about it, as an imperative sentence.
    """

    exit_code = 2

    def __init__(self, what: str, remedy: str) -> None:
        what, remedy = redact(what), redact(remedy)
        super().__init__(f"{what}. {remedy}{'' if remedy.endswith('?') else '.'}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["BackdropError"], tuple[str, str]]:
        """Makes the error picklable, so that it can be passed between processes."""
        return type(self), (self.what, self.remedy)


class ConfigError(BackdropError):
    """A YAML file, an override or a setting that is invalid."""


class DataError(BackdropError):
    """A dataset, an image or a mask that can't be used as it is."""


class TooLargeError(DataError):
    """An image with more pixels than are decoded."""


class PlanError(BackdropError):
    """A fold plan that can't be made, can't be read, or belongs to another dataset."""


class MemberError(BackdropError):
    """A member folder that is missing, unfinished, altered, or made with other settings."""


class TrainingError(BackdropError):
    """A training run that can't continue: a loss of NaN, a dead worker."""


class TuningError(BackdropError):
    """A schedule search that can't run, or has no result."""


class StorageError(BackdropError):
    """A file, folder or bucket that can't be read or written."""


class TrackingError(BackdropError):
    """A request that MLflow or its registry can't fulfill."""


class DockerError(BackdropError):
    """Docker that isn't available, or doesn't have the image."""


class GateError(BackdropError):
    """A promotion that can't be judged (as opposed to one that is rejected)."""


class ProcessError(BackdropError):
    """Work that dies whenever it is started."""

    exit_code = 1


class EndpointError(BackdropError):
    """An API of Kubeflow or Kubernetes that can't be reached, or rejects a request."""


def explain(error: Exception, report: str) -> BackdropError:
    """Any error as one of ours; one that we didn't foresee is a bug, ours or a library's.

    Args:
        error: what was raised.
        report: the remedy for a bug.
    """
    if NO_SCRATCH in str(error):  # also where it is the cause of an error of ours
        return BackdropError("No folder for temporary files can be written to", "Set TMPDIR to one that can")
    if isinstance(error, BackdropError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return BackdropError(f"{error.name} isn't installed", f"Run: pip install 'backdrop-ml[{EXTRAS[error.name]}]'")
    if isinstance(error, OSError) and error.filename is not None:
        what = f"{shorten(error.filename)}: {error.strerror}"
        return BackdropError(what, REMEDIES.get(error.errno or 0, "Check the path and its permissions"))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"Output or a temporary file can't be written ({error.strerror})"
        return BackdropError(what, "Free some space, or set TMPDIR to a folder elsewhere")
    if isinstance(error, RuntimeError) and HOMELESS in str(error):  # a container's user needn't be in /etc/passwd
        return BackdropError(f"User {os.getuid()} has no home folder", "Set HOME to a folder that it may write to")
    if isinstance(error, Warning):
        what = f"A library's warning was made an error ({type(error).__name__}: {shorten(error)})"
        return BackdropError(what, "Unset PYTHONWARNINGS, or leave out -W error")
    if "can't start new thread" in str(error):
        return BackdropError(
            "No more threads can be started", "Raise the limit of processes: ulimit -u, or a container's"
        )
    if is_out_of_memory(error):
        what = f"There isn't enough memory ({shorten(error) or type(error).__name__})"
        return BackdropError(what, "Use smaller photographs or batches, or a machine or a limit with more")
    return BackdropError(f"This is a bug in Backdrop ({type(error).__name__}: {shorten(error)})", report)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; the file that was being read may be good then."""
    return MEMORY.search(f"{type(error).__name__}: {error}") is not None


def shorten(message: object) -> str:
    """A foreign message on one line, without passwords, truncated; of our own errors, what is wrong."""
    text = " ".join(redact(message.what if isinstance(message, BackdropError) else str(message)).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def last_error(lines: Sequence[str]) -> str:
    """The last error in a task's log, `error: what` and maybe `fix: remedy`, as a sentence; empty if there is none."""
    for number in reversed(range(len(lines))):
        if lines[number].startswith(ERROR):
            what, fix = lines[number].removeprefix(ERROR), "".join(lines[number + 1 : number + 2])
            return str(BackdropError(what, fix.removeprefix(FIX))) if fix.startswith(FIX) else what
    return ""


def cause(message: str | None) -> str:
    """Our own error message in the tail of a log from Ray, or else its last line."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    # Ray's line about the command may come last.
    ours = [line for line in lines if line.startswith(ERROR)]
    return shorten((ours or lines or ["no message"])[-1])
