"""Usage of CPUs, memory, disk, network and GPUs while a member trains, by MLflow's own monitor.

It needs psutil, and for GPUs nvidia-ml-py, which the extra `tracking` brings; without psutil there are no such metrics.
"""

import logging
import os
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from backdrop.common.errors import shorten
from backdrop.common.progress import log
from backdrop.tracking import tracking_uri

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
SAMPLE_S, SAMPLES = 10, 3  # a point is the mean of SAMPLES samples

logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # it also says when all is well


class SystemMetrics:
    """Sends the usage of this machine to a run, from `start` to `stop`, and never stops the training.

    MLflow's monitor gives up when the server doesn't answer; MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off.
    """

    def __init__(self) -> None:
        self._monitor: SystemMetricsMonitor | None = None

    def start(self, run_id: str) -> None:
        """Starts the monitor's thread, unless it runs already; never raises."""
        if self._monitor or not _wanted():
            return
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]  # mlflow left it untyped
                run_id, SAMPLE_S, SAMPLES, resume_logging=True, tracking_uri=tracking_uri()
            )
            monitor.start()  # type: ignore[no-untyped-call]  # as above
            self._monitor = monitor
        except Exception as error:  # of psutil's, of a GPU's driver or of MLflow: none is worth a training
            log(f"There are no system metrics ({shorten(error)})")

    def stop(self, timeout_s: float) -> None:
        """Stops the monitor; returns after the time-out even if it still waits for the server."""
        if self._monitor:
            ending = threading.Thread(target=self._monitor.finish, daemon=True)
            ending.start()
            ending.join(timeout_s)


def _wanted() -> bool:
    return find_spec("psutil") is not None and os.environ.get(SWITCH, "true").lower() in ("true", "1")
