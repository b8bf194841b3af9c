"""Opens and closes MLflow runs; a member's run gets its metrics while the member trains."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from backdrop.common.errors import TrackingError
from backdrop.common.owner import parse_owner
from backdrop.common.progress import log
from backdrop.config import Recipe
from backdrop.evaluation.pictures import Image
from backdrop.inference.member import METRICS, Member, member_name, read_member
from backdrop.tracking.client import connect, experiment_id, find_runs, is_transient, ping, retry, server_errors
from backdrop.tracking.members import KEY, member_address, upload_member
from backdrop.tracking.metrics_uploader import HEARTBEAT, OWNER, MetricsUploader, heartbeat, owner
from backdrop.tracking.provenance import provenance
from backdrop.tracking.system_metrics import SystemMetrics

KIND = "backdrop.kind"
PARENT = "mlflow.parentRunId"
RUN_ID = "MLFLOW_RUN_ID"  # set by whoever has opened a run around us, as Kubeflow's MLflow plugin does
CLOSE_S, USAGE_S = 5.0, 1.0  # for calls in progress when training ends; those of system metrics may get lost
SILENT_S = 120.0  # a running run without a heartbeat for longer has lost its process
VALUE = 500  # characters of a parameter's value; MLflow refuses very long ones


def open_run(client: MlflowClient, name: str, tags: Mapping[str, str], query: str) -> Run:
    """Reopens the newest run that the query finds and no living process writes to, or creates a new one.

    A run that `MLFLOW_RUN_ID` names becomes the parent of a new one, if this server knows it. It isn't ours to write
    to: a member in it would never be found again.

    Args:
        client: the server's or store's.
        name: of a new run.
        tags: of a new run.
        query: MLflow's filter for a run that an earlier process left; empty for a new run in any case.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    signs = {OWNER: owner(), HEARTBEAT: heartbeat()}
    with server_errors(f"The run of {name} can't be opened"):
        for run in filter(_is_free, find_runs(client, query) if query else []):
            client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in signs.items()])
            if run.info.status != "FINISHED":  # a finished one stays so
                client.update_run(run.info.run_id, status="RUNNING")
            return run
        return client.create_run(experiment_id(client), tags={**_parent(client), **tags, **signs}, run_name=name)


def _parent(client: MlflowClient) -> dict[str, str]:
    """The tag that names the run around ours, if this server knows that run."""
    run_id = os.environ.get(RUN_ID)
    try:
        return {PARENT: str(client.get_run(run_id).info.run_id)} if run_id else {}
    except MlflowException as error:
        if is_transient(error):
            raise
        return {}


def _is_free(run: Run) -> bool:
    """Whether no living process, except this one, writes to a run."""
    tags = run.data.tags
    known = parse_owner(tags.get(OWNER, ""))
    if run.info.status != "RUNNING" or tags.get(OWNER) == owner() or (known and known.lives is False):
        return True
    return time.time() - int(tags.get(HEARTBEAT, 0)) / 1000 > SILENT_S


class OpenRun:
    """An open run: `with OpenRun(name, tags, query) as run: …; run.close()`.

    `tags` has a `KIND`. If the block ends without `close`, the run is marked as failed, or after Ctrl-C as killed, if
    the server answers.
    """

    def __init__(self, name: str, tags: Mapping[str, str], query: str) -> None:
        self.tags = {**tags, **provenance(tags[KIND])}
        self._name, self._query = name, query
        self._closed = False

    def __enter__(self) -> Self:
        """Opens the run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        self.client = connect()
        self.run = open_run(self.client, self._name, self.tags, self._query)
        self.run_id = str(self.run.info.run_id)
        return self

    def close(self) -> None:
        """Marks the run as finished.

        Raises:
            MlflowException: if the server doesn't accept it.
        """
        self.client.set_terminated(self.run_id, "FINISHED")
        self._closed = True

    def unfinished(self) -> Sequence[str]:
        """The runs to close if the block fails."""
        return [self.run_id]

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Closes what isn't finished."""
        if self._closed:
            return
        status = "FAILED" if kind is None or issubclass(kind, Exception) else "KILLED"
        try:
            with server_errors(f"The run of {self._name} can't be closed"):
                ping()
                for run_id in self.unfinished():
                    self.client.set_terminated(run_id, status)
        except TrackingError as error:
            log(str(error))  # the block's own error is raised


class MemberRun(OpenRun):
    """A member's run: `with MemberRun(key, recipe, fold) as run: …; run.finish(folder)`.

    It resumes a run that a killed training of the same member left. While another process trains the same member, each
    has its own run. With `fresh` it never resumes, so that the new member's run is
    the newest.
    """

    def __init__(self, key: str, recipe: Recipe, fold: int | None, fresh: bool = False) -> None:
        tags = {
            KIND: "member",
            KEY: key,
            "backdrop.recipe": recipe.name,
            "backdrop.fold": "all" if fold is None else str(fold),
        }
        query = f"tags.`{KEY}` = '{key}' and attributes.status != 'FINISHED'"
        super().__init__(member_name(recipe.name, fold), tags, "" if fresh else query)
        self._recipe = recipe
        self._follower: MetricsUploader | None = None
        self._usage = SystemMetrics()

    def __enter__(self) -> Self:
        """Opens the run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        super().__enter__()
        known = self.run.data.params
        params = [Param(*pair) for pair in flatten(self._recipe.model_dump(mode="json")) if pair[0] not in known]
        with server_errors("The member's run can't be opened"):
            self.client.log_batch(self.run_id, params=params, tags=[RunTag(*tag) for tag in self.tags.items()])
        return self

    def follow(self, metrics: Path) -> None:
        """Starts to upload `metrics.jsonl`, which needn't exist yet, to the run; never raises."""
        if self._follower:
            self._follower.path = metrics
            return
        self._follower = MetricsUploader(self.client, self.run_id, metrics)
        self._follower.start()
        self._usage.start(self.run_id)

    def show(self, name: str, epoch: int, picture: Image) -> None:
        """Sends a picture (H, W, 3) RGB of a photograph at an epoch, from 0; never raises."""
        if self._follower:
            self._follower.show(name, epoch, picture)

    def finish(self, folder: Path) -> str:
        """Uploads the finished member and the missing points; retries for minutes while the server is away.

        Returns:
            Its address `runs:/ID/member`.

        Raises:
            TrackingError: if the upload fails; the folder is kept, and the same command resumes the upload.
            MemberError: if the folder isn't a finished member.
        """
        member = read_member(folder)
        self.follow(folder / METRICS)
        uploader = self._follower
        assert uploader is not None

        def close() -> None:
            uploader.send()
            self.client.log_batch(self.run_id, metrics=list(_selected(member)))
            self.close()

        def upload() -> None:
            upload_member(self.client, self.run_id, folder)

        self._usage.stop(USAGE_S)
        retry(f"Member {folder} is finished, but can't be uploaded", upload)
        uploader.close(CLOSE_S)
        retry(f"Member {folder} is uploaded, but its run can't be closed", close)
        return member_address(self.run_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes what isn't finished, and ends the thread that sends metrics."""
        if self._follower and not self._closed:
            self._usage.stop(USAGE_S)
            self._follower.close(CLOSE_S)
        super().__exit__(kind, error, trace)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested settings as keys such as `a.b.0.c` and texts, cut at 500 characters, without None."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            yield from flatten(value, f"{key}.")
        elif value is not None:
            yield key, str(value)[:VALUE]


def _selected(member: Member) -> Iterator[Metric]:
    """The selected epoch's Dice, with that epoch's time, so that a retry adds nothing."""
    for row in member.history():
        if row["epoch"] == member.record.selected_epoch:
            yield Metric("selected_dice", member.record.dice, int(row["time_ms"]), member.record.selected_epoch)
