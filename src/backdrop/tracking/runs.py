"""Runs from their opening to their end; those of members, followed while they train."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from backdrop.common.errors import TrackingError
from backdrop.common.progress import log
from backdrop.config import Recipe
from backdrop.inference.member import CURVES, METRICS, RECIPE, RECORD, SAMPLES, WEIGHTS, Member, read_member
from backdrop.tracking.client import connect, experiment_id, find_run, ping, retry, server_errors
from backdrop.tracking.members import ARTIFACT, KEY, member_address
from backdrop.tracking.metrics_uploader import HEARTBEAT, MetricsUploader, heartbeat

KIND = "backdrop.kind"
PARENT = "mlflow.parentRunId"
RUN_ID = "MLFLOW_RUN_ID"  # set by a pipeline that has made the run already
CLOSE_S = 5.0  # for the calls that are under way when training ends
VALUE = 500  # characters of a parameter's value; MLflow refuses very long ones


def open_run(client: MlflowClient, name: str, tags: Mapping[str, str], wanted: str, given: bool = True) -> Run:
    """The run that `wanted` finds, running again, or a new one.

    Args:
        client: the server's or store's.
        name: of a new run.
        tags: of a new run.
        wanted: MLflow's filter for one that an earlier process left.
        given: whether to join the run that a pipeline has made (`MLFLOW_RUN_ID`), if it has.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    with server_errors(f"The run of {name} can't be opened"):
        if given and os.environ.get(RUN_ID):
            return client.get_run(os.environ[RUN_ID])
        run = find_run(client, wanted)
        if run:
            client.update_run(run.info.run_id, status="RUNNING")
            return run
        return client.create_run(experiment_id(client), tags=dict(tags), run_name=name)


class OpenRun:
    """A run from its opening to its end: `with OpenRun(name, tags, wanted) as run: …; run.close()`.

    Left without `close`, it is marked as failed, or as killed by Ctrl-C, if the server is still there.
    """

    def __init__(self, name: str, tags: Mapping[str, str], wanted: str, given: bool = True) -> None:
        self._name, self._tags, self._wanted, self._given = name, dict(tags), wanted, given
        self._closed = False

    def __enter__(self) -> Self:
        """Opens the run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        self.client = connect()
        self.run = open_run(self.client, self._name, self._tags, self._wanted, self._given)
        self.run_id = str(self.run.info.run_id)
        return self

    def close(self) -> None:
        """Marks the run as finished.

        Raises:
            MlflowException: if the server doesn't take it.
        """
        self.client.set_terminated(self.run_id, "FINISHED")
        self._closed = True

    def unfinished(self) -> Sequence[str]:
        """The runs that end with the block when it fails."""
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
            log(str(error))  # what ended the block matters more


class MemberRun(OpenRun):
    """A member's run: `with MemberRun(key, recipe, fold) as run: …; run.finish(folder)`.

    A run that a killed training of the same member left is joined, and so is the one that a pipeline made.
    """

    def __init__(self, key: str, recipe: Recipe, fold: int) -> None:
        tags = {KIND: "member", KEY: key, "backdrop.recipe": recipe.name, "backdrop.fold": str(fold)}
        wanted = f"tags.`{KEY}` = '{key}' and attributes.status != 'FINISHED'"
        super().__init__(f"{recipe.name}-{fold}", tags, wanted)
        self._recipe = recipe
        self._follower: MetricsUploader | None = None

    def __enter__(self) -> Self:
        """Opens the run.

        Raises:
            TrackingError: if the server doesn't answer.
        """
        super().__enter__()
        known = self.run.data.params
        params = [Param(*pair) for pair in flatten(self._recipe.model_dump(mode="json")) if pair[0] not in known]
        tags = {**self._tags, HEARTBEAT: heartbeat()}
        with server_errors("The member's run can't be opened"):
            self.client.log_batch(self.run_id, params=params, tags=[RunTag(*tag) for tag in tags.items()])
        return self

    def follow(self, metrics: Path) -> None:
        """Replays `metrics.jsonl` (which needn't be there yet) into the run from now on; raises nothing, ever."""
        if self._follower:
            self._follower.path = metrics
            return
        self._follower = MetricsUploader(self.client, self.run_id, metrics)
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
            self.client.log_batch(self.run_id, metrics=list(_selected(member)))
            self.close()

        retry(f"Member {folder} is finished, but can't be uploaded", lambda: self._upload(folder))
        uploader.close(CLOSE_S)
        retry(f"Member {folder} is uploaded, but its run can't be closed", close)
        return member_address(self.run_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes what isn't finished, and ends the thread that sends metrics."""
        if self._follower and not self._closed:
            self._follower.close(CLOSE_S)
        super().__exit__(kind, error, trace)

    def _upload(self, folder: Path) -> None:
        if (folder / SAMPLES).is_dir():
            self.client.log_artifacts(self.run_id, str(folder / SAMPLES), f"{ARTIFACT}/{SAMPLES}")
        for name in (CURVES, METRICS, RECIPE, WEIGHTS, RECORD):  # the record last: it says that all is there
            if (folder / name).is_file():
                self.client.log_artifact(self.run_id, str(folder / name), ARTIFACT)


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


def _selected(member: Member) -> Iterator[Metric]:
    """The Dice of the epoch that was selected, at that epoch's time, so that saying it twice adds nothing."""
    for row in member.history():
        if row["epoch"] == member.record.selected_epoch:
            yield Metric("selected_dice", member.record.dice, int(row["time_ms"]), member.record.selected_epoch)
