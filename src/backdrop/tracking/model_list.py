"""The list of registered models: which version of each is in use, and how good it is."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from backdrop.config.records import Record
from backdrop.tracking import history
from backdrop.tracking.client import connect, has_store, is_missing, pages, server_errors
from backdrop.tracking.evaluations import DIGEST
from backdrop.tracking.registry import EVALUATION_RUN
from backdrop.tracking.students import outdated


class ListedModel(Record):
    """A registered model: how many versions it has, and its champion, if there is one.

    `since` is when the champion became it. `held` is why a person holds it, "" without a reason; None if nobody does.
    `fault` is what was changed in its history, None if nothing was. `outdated` says that a student's teacher isn't its
    model's champion any more, None if it is. `registered` is when the champion was registered.
    Times are in ISO 8601 with the offset from UTC. `dice` is the champion's on `objects` holdout objects, `low` and
    `high` its 95 % interval, where the evaluation gives one.
    """

    name: str
    versions: int
    champion: int | None = None
    challenger: int | None = None
    since: str | None = None
    held: str | None = None
    fault: str | None = None
    outdated: str | None = None
    registered: str | None = None
    dice: float | None = None
    low: float | None = None
    high: float | None = None
    objects: int | None = None


def list_models() -> Iterator[ListedModel]:
    """Backdrop's models by name; others in the same registry are left out.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    if not has_store():
        return
    client = connect(wait=False)
    with server_errors("The registered models can't be listed"):
        for model in pages(client.search_registered_models, order_by=["name"]):
            if not history.NAME.fullmatch(model.name):
                continue
            versions = pages(client.search_model_versions, f"name = '{model.name}'")
            ours = [version for version in versions if DIGEST in version.tags]
            if ours:
                yield _describe(client, model.name, ours)


def _describe(client: MlflowClient, name: str, versions: Sequence[ModelVersion]) -> ListedModel:
    known = history.examine(name)
    state = known.state
    listed = ListedModel(
        name=name,
        versions=len(versions),
        champion=state.champion,
        challenger=state.challenger,
        since=state.changes[-1].time if state.changes else None,
        held=state.hold.reason if state.hold else None,
        fault=known.faults[0] if known.faults else None,
        outdated=None if known.faults else outdated(name, state.champion) or None,
    )
    for version in versions:
        if int(version.version) == state.champion:
            metrics = _metrics(client, version.tags[EVALUATION_RUN])
            objects = metrics.get("holdout_objects")
            return listed.model_copy(
                update={
                    "registered": datetime.fromtimestamp(version.creation_timestamp / 1000).astimezone().isoformat(),
                    "dice": metrics.get("holdout_dice"),
                    "low": metrics.get("holdout_dice_low"),
                    "high": metrics.get("holdout_dice_high"),
                    "objects": None if objects is None else int(objects),
                }
            )
    return listed


def _metrics(client: MlflowClient, run_id: str) -> Mapping[str, float]:
    """The evaluation run's metrics; none if the run was deleted for good."""
    try:
        metrics: Mapping[str, float] = client.get_run(run_id).data.metrics
    except MlflowException as error:
        if is_missing(error):
            return {}
        raise
    return metrics
