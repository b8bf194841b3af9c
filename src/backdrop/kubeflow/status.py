"""Shows Backdrop's recurring runs on Kubeflow: their pinned versions and the state of their last runs."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from kfp_server_api import ApiException, RecurringRunMode, V2beta1RecurringRun

from backdrop.common.errors import EndpointError
from backdrop.config.explain import suggest
from backdrop.kubeflow.client import Endpoint
from backdrop.kubeflow.recurring_runs import ours

RUNS = 5  # shown for each recurring run


def overview(endpoint: Endpoint, name: str = "") -> list[str]:
    """Lines about Backdrop's recurring runs, of one name or all, each with the last runs of its pipeline.

    Raises:
        EndpointError: if there is none of that name, or the endpoint doesn't answer.
    """
    with endpoint.errors():
        entries = ours(endpoint)
        known = {entry.display_name for entry in entries}
        if name and name not in known:
            remedy = suggest(name, known) if known else "Create it with `backdrop pipeline schedule`"
            raise EndpointError(f"Backdrop has no recurring run {name} on Kubeflow at {endpoint.host}", remedy)
        chosen = sorted((entry for entry in entries if name in ("", entry.display_name)), key=lambda e: e.display_name)
        return [line for entry in chosen for line in _lines(endpoint, entry)] or ["no recurring runs"]


def _lines(endpoint: Endpoint, entry: V2beta1RecurringRun) -> Iterator[str]:
    state = "paused" if entry.mode == RecurringRunMode.DISABLE else "on"
    yield f"{entry.display_name}: {state}, at {entry.trigger.cron_schedule.cron}, {_version(endpoint, entry)}"
    runs = _runs(endpoint, entry)
    for run in runs:
        page = endpoint.page(f"runs/details/{run.run_id}")
        yield f"  {run.created_at:%Y-%m-%d %H:%M} UTC  {run.state or 'PENDING':9}  {page}"
    if not runs:
        yield "  no runs yet"


def _version(endpoint: Endpoint, entry: V2beta1RecurringRun) -> str:
    pinned = entry.pipeline_version_reference
    try:
        version = endpoint.client.get_pipeline_version(pinned.pipeline_id, pinned.pipeline_version_id)
    except ApiException as error:
        if error.status != 404:
            raise
        return f"version {pinned.pipeline_version_id}, which has been deleted: every run will fail"
    pipeline = endpoint.client.get_pipeline(pinned.pipeline_id)
    return f"{pipeline.display_name} {version.display_name}"


def _runs(endpoint: Endpoint, entry: V2beta1RecurringRun) -> list[Any]:
    """The newest runs of the same pipeline, those of recurring runs that this one replaced included."""
    pipeline = entry.pipeline_version_reference.pipeline_id
    newest = endpoint.every(
        endpoint.client.list_runs, "runs", experiment_id=entry.experiment_id, sort_by="created_at desc"
    )
    references = ((run, run.pipeline_version_reference) for run in newest)
    return list(islice((run for run, version in references if version and version.pipeline_id == pipeline), RUNS))
