"""The errors that Backdrop raises on purpose.

Each says what is wrong (naming the file or key) and what to do about it. The command line prints both on one line and
exits with `exit_code`. Any other exception is a bug.
"""

from backdrop.common.redact import redact

SHOWN = 300  # maximum characters of a foreign message


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


def shorten(message: object) -> str:
    """A foreign message on one line, without passwords, truncated."""
    text = " ".join(redact(str(message)).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def cause(message: str | None) -> str:
    """Our own error message in the tail of a log from Ray, or else its last line."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    # Ray's line about the command may come last.
    ours = [line for line in lines if line.startswith("error: ")]
    return shorten((ours or lines or ["no message"])[-1])
