"""`reap`: runs in MLflow whose process is gone are closed."""

from backdrop.common.errors import ConfigError
from backdrop.common.progress import working
from backdrop.tracking import stale_runs
from backdrop.tracking.stale_runs import StaleRun

LEAST_MINUTES = 2.0  # a training that lives may be silent for so long, while its server stumbles


@working("looking for stale runs")
def reap(idle_minutes: float) -> list[StaleRun]:
    """Marks runs as killed that gave no sign of life for this many minutes.

    Returns:
        The runs that were closed.

    Raises:
        ConfigError: if that is so short that it would close trainings which live.
        TrackingError: if MLflow can't be reached.
    """
    if idle_minutes < LEAST_MINUTES:
        what = f"--idle-minutes {idle_minutes:g} would close trainings that live"
        raise ConfigError(what, f"Give {LEAST_MINUTES:g} or more")
    return list(stale_runs.close_idle(60 * idle_minutes))
