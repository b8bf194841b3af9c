"""`reap`: closes MLflow runs whose process has died."""

from backdrop.common.errors import ConfigError
from backdrop.common.progress import working
from backdrop.tracking import stale_runs
from backdrop.tracking.stale_runs import StaleRun

MIN_IDLE_MINUTES = 2.0  # a live training may be silent for this long if its server has problems


@working("looking for stale runs")
def reap(idle_minutes: float) -> list[StaleRun]:
    """Marks runs as killed that have shown no sign of life for this many minutes.

    Returns:
        The runs that were closed.

    Raises:
        ConfigError: if the time is so short that it would close live trainings.
        TrackingError: if MLflow can't be reached.
    """
    if idle_minutes < MIN_IDLE_MINUTES:
        what = f"--idle-minutes {idle_minutes:g} would close live trainings"
        raise ConfigError(what, f"Use {MIN_IDLE_MINUTES:g} or more")
    return list(stale_runs.close_idle(60 * idle_minutes))
