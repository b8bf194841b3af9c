"""Shows Backdrop's recurring runs on Kubeflow, their pinned versions, and the last runs of every ensemble."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from kfp_server_api import ApiException, RecurringRunMode, V2beta1RecurringRun

from backdrop.common.errors import EndpointError
from backdrop.config.cluster import PIPELINE
from backdrop.config.explain import suggest
from backdrop.kubeflow.client import Endpoint
from backdrop.kubeflow.failure import failures
from backdrop.kubeflow.recurring_runs import ours

RUNS = 5  # shown for each recurring run, and for each ensemble's others
SEEN = 1000  # runs of the server, of all pipelines, that are looked through


def overview(endpoint: Endpoint, name: str = "") -> list[str]:
    """Lines about Backdrop's recurring runs, of one name or all, and with no name about other runs.

    Each run that failed is followed by its failed tasks.

    Raises:
        EndpointError: if there is none of that name, or the endpoint doesn't answer.
    """
    with endpoint.errors():
        entries = _entries(endpoint, name)
        pipelines = _pipelines(endpoint)
        runs = [run for run in _newest(endpoint) if _pipeline(run) in pipelines]
        lines = [] if entries else ["no recurring runs"]
        for entry in entries:
            if name in ("", entry.display_name):
                lines.append(_head(endpoint, entry))
                lines += _lines(endpoint, _started_by(entry, entries, runs)) or ["  no runs yet"]
        for pipeline_id, pipeline in sorted(pipelines.items(), key=lambda pair: pair[1]):
            others = [run for run in runs if _pipeline(run) == pipeline_id and not run.recurring_run_id]
            if others and not name:
                lines += [f"{pipeline}, by hand:", *_lines(endpoint, others)]
        return lines


def last_run_of(endpoint: Endpoint, name: str) -> Any | None:
    """The newest run that a recurring run started, if there is one.

    Raises:
        EndpointError: if there is no recurring run of that name.
    """
    entries = _entries(endpoint, name)
    (entry,) = (entry for entry in entries if entry.display_name == name)
    return next(iter(_started_by(entry, entries, list(_newest(endpoint)))), None)


def _entries(endpoint: Endpoint, name: str) -> list[V2beta1RecurringRun]:
    """All of Backdrop's recurring runs; one of that name must be among them, if it is given."""
    entries = sorted(ours(endpoint), key=lambda entry: entry.display_name)
    known = {entry.display_name for entry in entries}
    if name and name not in known:
        remedy = suggest(name, known) if known else "Create it with `backdrop pipeline schedule`"
        raise EndpointError(f"Backdrop has no recurring run {name} on Kubeflow at {endpoint.host}", remedy)
    return entries


def _head(endpoint: Endpoint, entry: V2beta1RecurringRun) -> str:
    state = "paused" if entry.mode == RecurringRunMode.DISABLE else "on"
    return f"{entry.display_name}: {state}, at {entry.trigger.cron_schedule.cron}, {_version(endpoint, entry)}"


def _lines(endpoint: Endpoint, runs: list[Any]) -> list[str]:
    lines = []
    for run in runs[:RUNS]:
        page = endpoint.page(f"runs/details/{run.run_id}")
        lines.append(f"  {run.created_at:%Y-%m-%d %H:%M} UTC  {run.state or 'PENDING':9}  {page}")
        if run.state == "FAILED":
            lines += [f"    {failure}" for failure in failures(endpoint, run.run_id)]
    return lines


def _started_by(entry: V2beta1RecurringRun, entries: list[V2beta1RecurringRun], runs: list[Any]) -> list[Any]:
    """The runs that it started, or one that it replaced: of the same pipeline and experiment, and gone now."""
    others = {other.recurring_run_id for other in entries} - {entry.recurring_run_id}
    home = (entry.pipeline_version_reference.pipeline_id, entry.experiment_id)
    started = [run for run in runs if run.recurring_run_id and run.recurring_run_id not in others]
    return [
        run
        for run in started
        if run.recurring_run_id == entry.recurring_run_id or (_pipeline(run), run.experiment_id) == home
    ]


def _newest(endpoint: Endpoint) -> Iterator[Any]:
    listing, namespace = endpoint.client.list_runs, {"namespace": endpoint.namespace}
    return islice(endpoint.every(listing, "runs", sort_by="created_at desc", **namespace), SEEN)


def _pipelines(endpoint: Endpoint) -> dict[str, str]:
    """The names of Backdrop's pipelines, by their ids."""
    every = endpoint.every(endpoint.client.list_pipelines, "pipelines", namespace=endpoint.namespace)
    return {one.pipeline_id: one.display_name for one in every if one.display_name.startswith(PIPELINE)}


def _pipeline(run: Any) -> str:
    return str(run.pipeline_version_reference.pipeline_id) if run.pipeline_version_reference else ""


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
