"""Finds members in MLflow by their content key, and fetches them by their address.

Members in the embedded store or in the cache are found without importing mlflow, which would take most of the time.
"""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from backdrop.common import storage
from backdrop.common.errors import TrackingError
from backdrop.inference.member import RECORD
from backdrop.tracking import EXPERIMENT, sqlite_path, tracking_uri
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.store import is_current

KEY = "backdrop.content_key"
ARTIFACT = "member"
ADDRESS = re.compile(r"runs:/(?P<run>[A-Za-z0-9]+)/" + ARTIFACT)
# The oldest finished run with this tag in an experiment; MLflow's search gives the same.
QUERY = """
    SELECT runs.run_uuid FROM runs
    JOIN tags ON tags.run_uuid = runs.run_uuid
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE tags.key = ? AND tags.value = ? AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
      AND experiments.lifecycle_stage = 'active' AND experiments.name = ?
    ORDER BY runs.start_time, runs.run_uuid LIMIT 1
"""


def find_member(key: str) -> str | None:
    """The address `runs:/ID/member` of the finished run with this content key; None if there is none.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    run_id = _look_up(key)
    if run_id is None:
        from backdrop.tracking.client import connect, find_run

        run = find_run(connect(), f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'")
        run_id = run.info.run_id if run else None
    return member_address(run_id) if run_id else None


def member_address(run_id: str) -> str:
    """The address of a run's member."""
    return f"runs:/{run_id}/{ARTIFACT}"


def run_of(address: str) -> str:
    """The run's id in a member's address `runs:/ID/member`.

    Raises:
        TrackingError: if it isn't one.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise TrackingError(f"{address} isn't a member's address", f"Write it as runs:/ID/{ARTIFACT}")
    return match["run"]


def fetch_member(address: str) -> Path:
    """The member's folder, copied to the cache once.

    Args:
        address: `runs:/ID/member`.

    Raises:
        TrackingError: if there is no such run, it has no member, or the server doesn't answer.
        StorageError: if it can't be written.
    """
    run_id = run_of(address)

    def fill(folder: Path) -> None:
        from backdrop.tracking.client import connect, server_errors

        client = connect()
        with server_errors(f"Member {address} can't be fetched", "Check the address: `backdrop train` prints it"):
            client.download_artifacts(run_id, ARTIFACT, str(folder))
        if not (folder / ARTIFACT / RECORD).is_file():
            raise TrackingError(f"{address} has no finished member", "Run its `backdrop train` again")

    return fetch_once(storage.cache_folder() / "members" / run_id, fill) / ARTIFACT


def _look_up(key: str) -> str | None:
    """The run's id from the embedded store's tables; None if MLflow itself has to search."""
    database = sqlite_path(tracking_uri())
    if database is None or os.environ.get("MLFLOW_EXPERIMENT_ID") or not is_current(database):
        return None
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            row = connection.execute(QUERY, (KEY, key, experiment)).fetchone()
    except sqlite3.Error:  # such as tables of another MLflow version
        return None
    return str(row[0]) if row else None
