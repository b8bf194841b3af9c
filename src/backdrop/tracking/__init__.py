"""The MLflow server, and nothing but it: runs of members and ensembles, and the registry of ensembles.

This is the only place that imports mlflow, and only in its modules, so that asking `enabled` costs nothing.
"""

import logging
import os
from importlib.util import find_spec

from backdrop.common.errors import TrackingError

URI = "MLFLOW_TRACKING_URI"

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
    """Whether runs are tracked: the environment names a server in MLflow's own variable.

    Raises:
        TrackingError: if it does, but MLflow isn't installed.
    """
    if os.environ.get(URI) and find_spec("mlflow") is None:
        raise TrackingError(f"{URI} is set, but MLflow isn't installed", "pip install 'backdrop-ml[tracking]'")
    return bool(os.environ.get(URI))
