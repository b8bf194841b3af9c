"""Tracking with MLflow: the runs of members and ensembles, and the registry of ensembles.

Without a server it uses MLflow's default store in the current folder: `mlflow.db` and `mlruns/`.
Only this package imports mlflow, and only in its modules, so that calling `enabled` is cheap.
"""

import functools
import logging
import os
from importlib.util import find_spec
from pathlib import Path

from backdrop.common.errors import TrackingError
from backdrop.common.progress import log
from backdrop.common.redact import without_credentials

URI = "MLFLOW_TRACKING_URI"
SWITCH = "BACKDROP_TRACKING"  # "off": no store in the current folder; without URI nothing is tracked
DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
EXPERIMENT = "backdrop"  # unless MLflow's variables name another
INSTALL = "pip install 'backdrop-ml[tracking]'"

# Our defaults for MLflow's settings, which the environment can override. MLflow reads them at its first call: a few
# seconds of retries instead of four minutes, no telemetry, and no pickle in models from the registry.
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

# It warns about each retry; we report one error, or one line, when all of them have failed.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def enabled() -> bool:
    """Whether runs are tracked: MLflow is installed, and BACKDROP_TRACKING=off doesn't turn off the default store.

    Raises:
        TrackingError: if the environment names a store or server, but MLflow isn't installed.
    """
    named, installed = bool(os.environ.get(URI)), find_spec("mlflow") is not None
    if named and not installed:
        raise TrackingError(f"{URI} is set, but MLflow isn't installed", INSTALL)
    requested = named or os.environ.get(SWITCH) != "off"
    if requested and not installed:
        _log_untracked()
    return requested and installed


def tracking_uri() -> str:
    """The address of the server or store: MLFLOW_TRACKING_URI, or else the current folder's `mlflow.db`.

    Paths are absolute, so that the address is also valid in a process with another working folder.
    """
    uri = os.environ.get(URI) or f"{SQLITE}{DATABASE}"
    if path := sqlite_path(uri):
        return f"{SQLITE}{path}"
    return str(Path(uri).absolute()) if uri.startswith(("./", "../")) else uri


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other address, such as a server's."""
    name = uri.removeprefix(SQLITE)
    return Path(name).absolute() if name and name not in (uri, ":memory:") else None


def is_server(uri: str) -> bool:
    """Whether the address is a server's."""
    return uri.startswith(("http://", "https://"))


def version_page(model: str, version: int) -> str | None:
    """The address of a version's page in MLflow, without credentials; None without a server."""
    uri = without_credentials(tracking_uri())
    return f"{uri.rstrip('/')}/#/models/{model}/versions/{version}" if is_server(uri) else None


@functools.cache
def _log_untracked() -> None:
    if os.environ.get("RANK", "0") == "0":  # only one of the processes that train together
        log(f"MLflow isn't installed: nothing is tracked ({INSTALL})")
