"""Finds and closes runs whose process was killed, or lost with its machine."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Run

from backdrop.tracking.client import connect, find_runs, server_errors
from backdrop.tracking.metrics_uploader import HEARTBEAT
from backdrop.tracking.runs import KIND


@dataclass(frozen=True)
class StaleRun:
    """A run that was closed: its id, its name, and the time of its last sign of life, in ms since 1970."""

    run_id: str
    name: str
    last_ms: int


def close_idle(idle_s: float) -> Iterator[StaleRun]:
    """Marks runs of our experiment without a sign of life for `idle_s` seconds as killed, at their last sign.

    A training that was only cut off from the server reopens its run when it reaches the server again.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client = connect()
    latest = time.time_ns() // 1_000_000 - idle_s * 1000
    for run in find_runs(client, "attributes.status = 'RUNNING'"):
        last = _last_sign(run)
        if last is not None and last < latest:
            with server_errors(f"Run {run.info.run_id} can't be closed"):
                client.set_terminated(run.info.run_id, "KILLED", end_time=last)
            yield StaleRun(run.info.run_id, str(run.info.run_name), last)


def _last_sign(run: Run) -> int | None:
    """A run's heartbeat, or the start of an evaluation's run, which is open only briefly; None for other runs."""
    tags = run.data.tags
    if HEARTBEAT in tags:
        return int(tags[HEARTBEAT])
    return int(run.info.start_time) if tags.get(KIND) == "ensemble" else None
