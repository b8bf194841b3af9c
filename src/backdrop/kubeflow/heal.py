"""Starts failed runs again: one by its id, or a schedule's last one if pods of it were lost."""

from typing import Any

from kfp_server_api import ApiException

from backdrop.common.errors import EndpointError
from backdrop.kubeflow.client import Endpoint, silent
from backdrop.kubeflow.failure import failures
from backdrop.kubeflow.status import last_run_of

FAILED = ("FAILED", "CANCELED")
ENDED = (*FAILED, "SUCCEEDED", "SKIPPED")
STARTS = 3  # of a scheduled run in all; nodes that are lost again and again need a person


def heal(endpoint: Endpoint, run_id: str) -> str:
    """Starts a run that failed or was stopped again, with the same version, parameters and name.

    Whatever it finished is reused, because steps find it by its content.

    Returns:
        The new run's id.

    Raises:
        EndpointError: if there is no such run, it hasn't failed, it isn't a run of a version, or one of its name is
            going; or if the endpoint doesn't answer or refuses the request.
    """
    with endpoint.errors(), silent():
        run = _run(endpoint, run_id)
        if run.state not in FAILED:
            what = f"Run {run_id} is {run.state or 'PENDING'}"
            raise EndpointError(what, "Wait for its end; only a run that failed or was stopped can be healed")
        for other in _same(endpoint, run):
            if other.state not in ENDED:
                what = f"Run {run_id} has been started again as {other.run_id}, which is {other.state or 'PENDING'}"
                raise EndpointError(what, "Wait for its end")
        return _start(endpoint, run)


def heal_last(endpoint: Endpoint, name: str) -> str:
    """Starts the last run of a recurring run again if it failed only because pods of it were lost.

    A task whose log ends in an error of its own would end in it again; a run is started three times at most.

    Returns:
        What was found and done, in a line.

    Raises:
        EndpointError: if there is no such recurring run, the log of a failed task is denied, or the endpoint doesn't
            answer or refuses the request.
    """
    with endpoint.errors(), silent():
        scheduled = last_run_of(endpoint, name)
        if scheduled is None:
            return "has no runs yet"
        starts = sorted(_same(endpoint, scheduled), key=lambda run: run.created_at)
        run = next((run for run in starts if run.state not in FAILED), starts[-1])
        if run.state != "FAILED":
            return f"run {run.run_id} is {run.state or 'PENDING'}"
        found = failures(endpoint, run.run_id)
        errors = [str(failure) for failure in found if failure.own]
        if errors:
            return f"run {run.run_id} has an error that another start won't change: {errors[0]}"
        if any(failure.own is None for failure in found):
            what = f"Kubeflow at {endpoint.host} denies the logs of run {run.run_id}, so its failure may be its own"
            raise EndpointError(what, "Allow this account the verb readLog on runs, as the chart's Role does")
        if len(starts) >= STARTS:
            return f"run {run.run_id} was the last of {STARTS} starts"
        return f"run {run.run_id} lost pods and has started again as {_start(endpoint, run)}"


def _start(endpoint: Endpoint, run: Any) -> str:
    version, settings = run.pipeline_version_reference, run.runtime_config
    if not version:
        what = f"Run {run.run_id} has no pipeline version to run again"
        raise EndpointError(what, "Start it with `backdrop pipeline submit`")
    again = endpoint.client.run_pipeline(
        run.experiment_id,
        run.display_name,
        params=settings.parameters if settings else None,
        pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id,
        pipeline_root=(settings.pipeline_root if settings else None) or None,
        service_account=run.service_account or None,
    )
    return str(again.run_id)


def _same(endpoint: Endpoint, run: Any) -> list[Any]:
    """The run and its other starts: those of its name."""
    listing = endpoint.client.list_runs
    return list(endpoint.named(listing, "runs", run.display_name, experiment_id=run.experiment_id))


def _run(endpoint: Endpoint, run_id: str) -> Any:
    try:
        return endpoint.client.get_run(run_id)
    except ApiException as error:
        if error.status != 404:
            raise
        what = f"Kubeflow at {endpoint.host} has no run {run_id}"
        raise EndpointError(what, "Take its id from `backdrop pipeline status`") from error
