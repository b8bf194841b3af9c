"""Runs of members: found again by their content key, followed while they train, fetched by their address."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from backdrop.common import storage
from backdrop.common.errors import TrackingError
from backdrop.common.progress import log
from backdrop.config import Recipe
from backdrop.inference.member import CURVES, METRICS, RECIPE, RECORD, SAMPLES, WEIGHTS, Member, read_member
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.client import connect, experiment_id, ping, retry, server_errors
from backdrop.tracking.metrics_uploader import HEARTBEAT, MetricsUploader, heartbeat

KIND = "backdrop.kind"
KEY = "backdrop.content_key"
PARENT = "mlflow.parentRunId"
RUN_ID = "MLFLOW_RUN_ID"  # set by a pipeline that has made the run already
ARTIFACT = "member"
CLOSE_S = 5.0  # for the calls that are under way when training ends
VALUE = 500  # characters of a parameter's value; MLflow refuses very long ones

ADDRESS = re.compile(r"runs:/(?P<run>[A-Za-z0-9]+)/" + ARTIFACT)


def find_member(key: str) -> str | None:
    """The address `runs:/ID/member` of the finished run with this content key, if there is one.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client = connect()
    run = find_run(client, f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'")
    return member_address(run.info.run_id) if run else None


def member_address(run_id: str) -> str:
    """The address of the member that a run holds."""
    return f"runs:/{run_id}/{ARTIFACT}"


def run_of(address: str) -> str:
    """The run's id in a member's address `runs:/ID/member`.

    Raises:
        TrackingError: if it isn't one.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise TrackingError(f"{address} is no member's address", f"Write it as runs:/ID/{ARTIFACT}")
    return match["run"]


def fetch_member(address: str) -> Path:
    """The member's folder, a copy made once in the cache.

    Args:
        address: `runs:/ID/member`.

    Raises:
        TrackingError: if there is no such run or it holds no member, or the server doesn't answer.
        StorageError: if it can't be written.
    """
    run_id = run_of(address)

    def fill(folder: Path) -> None:
        client = connect()
        with server_errors(f"Member {address} can't be fetched", "Check the address: `backdrop train` prints it"):
            client.download_artifacts(run_id, ARTIFACT, str(folder))
        if not (folder / ARTIFACT / RECORD).is_file():
            raise TrackingError(f"{address} holds no finished member", "Run its `backdrop train` again")

    return fetch_once(storage.cache_folder() / "members" / run_id, fill) / ARTIFACT


class MemberRun:
    """A member's run, from its opening to its end: `with MemberRun(key, recipe, fold) as run: …`.

    A run that a killed training of the same member left is joined, and so is the one that a pipeline made
    (`MLFLOW_RUN_ID`). Left by an exception, the run is marked as failed.
    """

    def __init__(self, key: str, recipe: Recipe, fold: int) -> None:
        self._key, self._recipe, self._fold = key, recipe, fold
        self._follower: MetricsUploader | None = None
        self._finished = False

    def __enter__(self) -> "MemberRun":
        """Opens the run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        self._client = connect()
        run = self._open()
        self.run_id = str(run.info.run_id)
        known = run.data.params
        params = [Param(*pair) for pair in flatten(self._recipe.model_dump(mode="json")) if pair[0] not in known]
        with server_errors("The member's run can't be opened"):
            self._client.log_batch(self.run_id, params=params, tags=[RunTag(*tag) for tag in self._tags().items()])
        return self

    def follow(self, metrics: Path) -> None:
        """Replays `metrics.jsonl` (which needn't be there yet) into the run from now on; raises nothing, ever."""
        if self._follower:
            self._follower.path = metrics
            return
        self._follower = MetricsUploader(self._client, self.run_id, metrics)
        self._follower.start()

    def finish(self, folder: Path) -> str:
        """Uploads the finished member and the points that the run lacks; waits for a server that is away for minutes.

        Returns:
            Its address `runs:/ID/member`.

        Raises:
            TrackingError: if the upload fails. The folder stays whole, and the same command takes it up again.
            MemberError: if the folder isn't a finished member.
        """
        member = read_member(folder)
        self.follow(folder / METRICS)
        uploader = self._follower
        assert uploader is not None

        def close() -> None:
            uploader.send()
            self._client.log_batch(self.run_id, metrics=list(_selected(member)))
            self._client.set_terminated(self.run_id, "FINISHED")

        retry(f"Member {folder} is finished, but can't be uploaded", lambda: self._upload(folder))
        uploader.close(CLOSE_S)
        retry(f"Member {folder} is uploaded, but its run can't be closed", close)
        self._finished = True
        return member_address(self.run_id)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Marks a run that didn't finish as failed, or as killed by Ctrl-C, if the server is still there."""
        if self._finished:
            return
        if self._follower:
            self._follower.close(CLOSE_S)
        failed = kind is None or issubclass(kind, Exception)
        try:
            with server_errors("The run can't be closed"):
                ping()
                self._client.set_terminated(self.run_id, "FAILED" if failed else "KILLED")
        except TrackingError as error:
            log(str(error))  # what ended the block matters more

    def _open(self) -> Run:
        given = os.environ.get(RUN_ID)
        with server_errors("The member's run can't be opened"):
            if given:
                return self._client.get_run(given)
            run = find_run(self._client, f"tags.`{KEY}` = '{self._key}' and attributes.status != 'FINISHED'")
            if run:
                self._client.update_run(run.info.run_id, status="RUNNING")
                return run
            name = f"{self._recipe.name}-{self._fold}"
            return self._client.create_run(experiment_id(self._client), tags=self._tags(), run_name=name)

    def _tags(self) -> dict[str, str]:
        return {
            KIND: "member",
            KEY: self._key,
            HEARTBEAT: heartbeat(),
            "backdrop.recipe": self._recipe.name,
            "backdrop.fold": str(self._fold),
        }

    def _upload(self, folder: Path) -> None:
        if (folder / SAMPLES).is_dir():
            self._client.log_artifacts(self.run_id, str(folder / SAMPLES), f"{ARTIFACT}/{SAMPLES}")
        for name in (CURVES, METRICS, RECIPE, WEIGHTS, RECORD):  # the record last: it says that all is there
            if (folder / name).is_file():
                self._client.log_artifact(self.run_id, str(folder / name), ARTIFACT)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested settings as `a.b.0.c` and their text, cut if very long; None is left out."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            yield from flatten(value, f"{key}.")
        elif value is not None:
            yield key, str(value)[:VALUE]


def find_run(client: MlflowClient, wanted: str) -> Run | None:
    """The oldest run of our experiment that one of MLflow's filters finds.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    experiment = experiment_id(client)
    with server_errors("The server can't be searched"):
        found = client.search_runs([experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def _selected(member: Member) -> Iterator[Metric]:
    """The Dice of the epoch that was selected, at that epoch's time, so that saying it twice adds nothing."""
    for row in member.history():
        if row["epoch"] == member.record.selected_epoch:
            yield Metric("selected_dice", member.record.dice, int(row["time_ms"]), member.record.selected_epoch)
