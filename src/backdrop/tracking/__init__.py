"""MLflow, and nothing but it: runs of members and ensembles, and the registry of ensembles.

Where no server is named, MLflow's own default store of the current folder is used: `mlflow.db` and `mlruns/`.
This is the only place that imports mlflow, and only in its modules, so that asking `enabled` costs nothing.
"""

import functools
import logging
import os
from importlib.util import find_spec
from pathlib import Path

from backdrop.common.errors import TrackingError
from backdrop.common.progress import log

URI = "MLFLOW_TRACKING_URI"
SWITCH = "BACKDROP_TRACKING"  # "off": no store in the current folder; without URI nothing is tracked
DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
EXPERIMENT = "backdrop"  # unless MLflow's variables name another
INSTALL = "pip install 'backdrop-ml[tracking]'"

# What we ask of MLflow unless the environment asks otherwise. It reads these late, at its first call: a few seconds
# of retries instead of four minutes, no telemetry, and no pickle in what is loaded from the registry.
DEFAULTS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

# It prints a line at each retry; our one error, or our one line, says the same when the retries are over.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def enabled() -> bool:
    """Whether runs are tracked: MLflow is installed, and BACKDROP_TRACKING=off doesn't forbid the default store.

    Raises:
        TrackingError: if the environment names a store or server, but MLflow isn't installed.
    """
    named, installed = bool(os.environ.get(URI)), find_spec("mlflow") is not None
    if named and not installed:
        raise TrackingError(f"{URI} is set, but MLflow isn't installed", INSTALL)
    wanted = named or os.environ.get(SWITCH) != "off"
    if wanted and not installed:
        _say_untracked()
    return wanted and installed


def tracking_uri() -> str:
    """Where runs are tracked: what MLFLOW_TRACKING_URI names, else the current folder's `mlflow.db`.

    Paths in it are absolute, so that it means the same in a process with another working folder.
    """
    given = os.environ.get(URI) or f"{SQLITE}{DATABASE}"
    if path := sqlite_path(given):
        return f"{SQLITE}{path}"
    return str(Path(given).absolute()) if given.startswith(("./", "../")) else given


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None if it is something else, such as a server."""
    name = uri.removeprefix(SQLITE)
    return Path(name).absolute() if name and name not in (uri, ":memory:") else None


def is_server(uri: str) -> bool:
    """Whether the address is a server's."""
    return uri.startswith(("http://", "https://"))


@functools.cache
def _say_untracked() -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes that train together one is enough
        log(f"MLflow isn't installed: nothing is tracked ({INSTALL})")
