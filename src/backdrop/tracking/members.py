"""Finds members in MLflow by their content key, and fetches them by their address.

Members in the embedded store or in the cache are found without importing mlflow, which would take most of the time.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backdrop.common import storage
from backdrop.common.errors import MemberError, TrackingError
from backdrop.common.progress import log
from backdrop.inference.member import CURVES, METRICS, ONNX, RECIPE, RECORD, SAMPLES, WEIGHTS, read_member
from backdrop.tracking import EXPERIMENT, sqlite_path, tracking_uri
from backdrop.tracking.artifacts import file_sizes, local_artifacts, require_as_listed
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.store import is_current

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "backdrop.content_key"
ARTIFACT = "member"
ADDRESS = re.compile(r"runs:/(?P<run>[A-Za-z0-9]+)/" + ARTIFACT)
NEEDED = (RECIPE, WEIGHTS, RECORD)  # without these a member can't be used
AGAIN = "Run its `backdrop train` again"
# The runs with this tag in an experiment, the newest first; MLflow's search gives the same.
QUERY = """
    SELECT runs.run_uuid, runs.status, runs.artifact_uri FROM runs
    JOIN tags ON tags.run_uuid = runs.run_uuid
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE tags.key = ? AND tags.value = ? AND runs.lifecycle_stage = 'active'
      AND experiments.lifecycle_stage = 'active' AND experiments.name = ?
    ORDER BY runs.start_time DESC, runs.run_uuid
"""


@dataclass(frozen=True)
class StoredRun:
    """A member's run: its id, its status, and where its artifacts are."""

    run_id: str
    status: str
    artifacts: str

    @property
    def address(self) -> str:
        """The address of its member."""
        return member_address(self.run_id)


def find_member(key: str) -> str | None:
    """The address `runs:/ID/member` of the newest whole member with this content key; None if there is none.

    Artifacts can be deleted or damaged while their run stays. A finished run without a whole member is logged and
    skipped, unless the cache has a copy of the member, which is then uploaded again.

    Raises:
        TrackingError: if the server doesn't answer.
        StorageError: if the cache can't be written.
    """
    for run in sorted(_runs(key), key=lambda run: run.status != "FINISHED"):  # stable: the newest of each stays first
        if not (fault := _fault(run, key)):
            return run.address
        if run.status == "FINISHED":
            log(f"{run.address} isn't reused: {fault}")
    return None


def find_run(key: str) -> str | None:
    """The address of the newest finished run with this content key, whose files aren't examined; None if there is none.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    return next((run.address for run in _runs(key) if run.status == "FINISHED"), None)


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
        MemberError: if the member is damaged.
        StorageError: if it can't be written.
    """
    run_id = run_of(address)

    def fill(folder: Path) -> None:
        from backdrop.tracking.client import connect, server_errors

        client = connect()
        with server_errors(f"Member {address} can't be fetched", "Check the address: `backdrop train` prints it"):
            sizes = file_sizes(partial(client.list_artifacts, run_id), ARTIFACT)
            missing = _missing(sizes)
            if not missing:
                client.download_artifacts(run_id, ARTIFACT, str(folder))
        if missing:
            raise TrackingError(f"{address} has no finished member ({missing})", AGAIN)
        require_as_listed(folder / ARTIFACT, sizes, address)
        try:
            read_member(folder / ARTIFACT)
        except MemberError as error:
            raise MemberError(f"{address} is damaged in MLflow", AGAIN) from error

    return fetch_once(_cached(run_id), fill) / ARTIFACT


def upload_member(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Uploads a member's files to a run, the record last: it marks the upload as complete.

    Raises:
        MlflowException: if the server doesn't accept them.
    """
    if (folder / SAMPLES).is_dir():
        client.log_artifacts(run_id, str(folder / SAMPLES), f"{ARTIFACT}/{SAMPLES}")
    for name in (CURVES, METRICS, ONNX, *NEEDED):
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name), ARTIFACT)


def _runs(key: str) -> Sequence[StoredRun]:
    """The runs with this content key, whatever their status, the newest first."""
    if runs := _look_up(key):
        return runs
    from backdrop.tracking.client import connect, find_runs

    stored = find_runs(connect(), f"tags.`{KEY}` = '{key}'")
    return [StoredRun(run.info.run_id, run.info.status, run.info.artifact_uri) for run in stored]


def _look_up(key: str) -> Sequence[StoredRun]:
    """The runs in the embedded store's tables; none if MLflow itself has to search."""
    database = sqlite_path(tracking_uri())
    if database is None or os.environ.get("MLFLOW_EXPERIMENT_ID") or not is_current(database):
        return []
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            rows = connection.execute(QUERY, (KEY, key, experiment)).fetchall()
    except sqlite3.Error:  # such as tables of another MLflow version
        return []
    return [StoredRun(*row) for row in rows]


def _fault(run: StoredRun, key: str) -> str:
    """Why a run's member can't be used; empty if it can. A copy in the cache replaces what MLflow has lost."""
    sizes, copy = _sizes(run), _copy(run, key)
    if copy:
        there = [name for name in (*NEEDED, ONNX) if (copy / name).is_file()]
        lost = [name for name in there if sizes.get(name) != (copy / name).stat().st_size]
        if lost:
            _put_back(run, copy, lost)
    elif missing := _missing(sizes):
        return missing
    else:
        try:
            if read_member(fetch_member(run.address)).record.key != key:
                return "it holds a member of other data or settings"
        except MemberError as error:
            return error.what
    if run.status in ("FAILED", "KILLED"):  # between its last upload and its end
        from backdrop.tracking.client import connect, server_errors

        with server_errors(f"The run of {run.address} can't be closed"):
            connect().set_terminated(run.run_id, "FINISHED")
    return ""


def _sizes(run: StoredRun) -> dict[str, int]:
    """The sizes in bytes of the run's member files, by name."""
    folder = local_artifacts(run.artifacts)
    if folder:
        return {path.name: path.stat().st_size for path in (folder / ARTIFACT).glob("*") if path.is_file()}
    from backdrop.tracking.client import connect, server_errors

    client = connect()
    with server_errors(f"The files of {run.address} can't be listed"):
        sizes = file_sizes(partial(client.list_artifacts, run.run_id), ARTIFACT)
    return {name: size for name, size in sizes.items() if "/" not in name}


def _missing(sizes: Mapping[str, int]) -> str:
    """Which of a member's files are missing, in words; empty if none are."""
    names = [name for name in NEEDED if name not in sizes]
    if len(names) == len(NEEDED):
        return "its files are gone from MLflow"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} gone from MLflow" if names else ""


def _copy(run: StoredRun, key: str) -> Path | None:
    """The run's member in the cache, if it is there and whole."""
    folder = _cached(run.run_id) / ARTIFACT
    with contextlib.suppress(MemberError):
        if folder.is_dir() and read_member(folder).record.key == key:
            return folder
    return None


def _put_back(run: StoredRun, copy: Path, names: Sequence[str]) -> None:
    from backdrop.tracking.client import connect, server_errors

    with server_errors(f"{run.address} can't be uploaded again"):
        upload_member(connect(), run.run_id, copy)
    log(f"{', '.join(names)} of {run.address} {'was' if len(names) == 1 else 'were'} gone from MLflow: uploaded again")


def _cached(run_id: str) -> Path:
    return storage.cache_folder() / "members" / run_id
