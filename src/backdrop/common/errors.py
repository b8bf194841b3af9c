"""The one tree of errors that Backdrop raises on purpose.

Each carries what is wrong (naming the file or the thing) and what to do about it. The command line prints
both on one line and ends with `exit_code`; anything else that escapes is a bug and shows its traceback.
"""

from backdrop.common.redact import redact

SHOWN = 300  # characters of somebody else's message


class BackdropError(Exception):
    """Something the user can fix. No address in it shows a password.

    Args:
        what: what is wrong, naming the file or the thing.
        remedy: what to do about it, as an imperative sentence.
    """

    exit_code = 2

    def __init__(self, what: str, remedy: str) -> None:
        what, remedy = redact(what), redact(remedy)
        super().__init__(f"{what}. {remedy}{'' if remedy.endswith('?') else '.'}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["BackdropError"], tuple[str, str]]:
        """So that it reaches the process that waits for it."""
        return type(self), (self.what, self.remedy)


class ConfigError(BackdropError):
    """A YAML file or an override that doesn't say what a recipe, an ensemble or a record may say."""


class DataError(BackdropError):
    """A dataset, an image or a mask that can't be used as it is."""


class PlanError(BackdropError):
    """A fold plan that can't be made, can't be read, or belongs to another dataset."""


class MemberError(BackdropError):
    """A member folder that is missing, unfinished, altered or made by other settings."""


class TrainingError(BackdropError):
    """A training that can't go on: a loss that is no number, a dead worker."""


class TuningError(BackdropError):
    """A schedule search that can't be run, or comes to nothing."""


class StorageError(BackdropError):
    """A file, folder or bucket that can't be read or written."""


class TrackingError(BackdropError):
    """The MLflow server or its registry can't do what was asked."""


class DockerError(BackdropError):
    """Docker isn't there, or hasn't got the image."""


class GateError(BackdropError):
    """A promotion that can't even be judged (as opposed to one that is rejected)."""


class EndpointError(BackdropError):
    """A cluster's API, Kubeflow's or Kubernetes' own, can't be reached or can't do what was asked."""


def shorten(message: object) -> str:
    """Somebody else's message on one line, without passwords, and cut."""
    text = " ".join(redact(str(message)).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def cause(message: str | None) -> str:
    """Our own error in the end of a log that Ray repeats, or else its last line."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    # Ray's own line about the command may come last, though it was first.
    ours = [line for line in lines if line.startswith("error: ")]
    return shorten((ours or lines or ["no message"])[-1])
