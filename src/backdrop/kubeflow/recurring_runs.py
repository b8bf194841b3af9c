"""Schedules on a Kubeflow endpoint: exactly one of a name, whatever was there and wherever it was stopped.

KFP's recurring runs can't be changed, and their names may clash. So a schedule carries the digest of all that it was
asked to be. What differs is replaced: the new one is made before the old one is deleted, and what a reconcile that was
killed has left double is found by the next.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_server_api import ApiException, RecurringRunMode, V2beta1RecurringRun

from backdrop.common import storage
from backdrop.common.errors import EndpointError
from backdrop.kubeflow.client import Endpoint
from backdrop.kubeflow.publish import Published

MARK = re.compile(r"^Backdrop: .* sha256:[0-9a-f]{64}$")
ROUNDS = 10  # so often it looks again; more only if somebody changes the same schedule all the time


@dataclass(frozen=True)
class Schedule:
    """What a schedule shall be: a version, pinned, when it runs, where and with what parameters."""

    name: str
    cron: str
    published: Published
    experiment_id: str
    values: Mapping[str, Any]
    service_account: str = ""
    paused: bool = False

    def digest(self) -> str:
        """sha256 of all that the endpoint is told, but for `paused`, which it tells itself."""
        told = dataclasses.asdict(self)
        del told["paused"], told["published"]["new"]
        return storage.sha256(json.dumps(told, sort_keys=True).encode())

    def description(self) -> str:
        """By which it's known as ours, and as unchanged."""
        return f"Backdrop: {self.published.name} {self.published.version}, sha256:{self.digest()}"

    def is_met_by(self, found: V2beta1RecurringRun) -> bool:
        """Whether this is it."""
        return bool(found.description == self.description() and (found.mode == RecurringRunMode.DISABLE) == self.paused)


def reconcile(endpoint: Endpoint, wanted: Schedule) -> str:
    """Sees to it that there is one schedule of that name, and that it is as wanted.

    Two at the same time may undo each other's; each looks again until it sees nothing but its own.

    Returns:
        What was done: `created`, `unchanged` or `replaced`.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses it, a schedule of that name isn't Backdrop's, or
            somebody else changes it all the time.
    """
    with endpoint.errors():
        found = ours(endpoint, wanted.name)
        done = "unchanged" if any(map(wanted.is_met_by, found)) else "replaced" if found else "created"
        for _ in range(ROUNDS):
            right = [entry for entry in found if wanted.is_met_by(entry)]
            if not right:
                _create(endpoint, wanted)
            for entry in found:
                if right and entry is not right[0]:
                    _delete(endpoint, entry)
            if len(found) == len(right) == 1:
                return done
            found = ours(endpoint, wanted.name)
    raise EndpointError(f"Schedule {wanted.name} is changed by somebody else all the time", "Stop one of the two")


def remove(endpoint: Endpoint, name: str) -> int:
    """Deletes a schedule, which needn't be there; its runs go on.

    Returns:
        How many there were.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses it, or a schedule of that name isn't Backdrop's.
    """
    with endpoint.errors():
        found = ours(endpoint, name)
        for entry in found:
            _delete(endpoint, entry)
    return len(found)


def ours(endpoint: Endpoint, name: str = "") -> list[V2beta1RecurringRun]:
    """Backdrop's schedules, of a name or all, the oldest first.

    Raises:
        EndpointError: if one of that name is somebody else's.
    """
    listing, where = endpoint.client.list_recurring_runs, {"namespace": endpoint.namespace}
    if not name:
        every = endpoint.every(listing, "recurring_runs", **where)
        return [entry for entry in every if MARK.match(entry.description or "")]
    found = endpoint.named(listing, "recurring_runs", name, **where)
    if not all(MARK.match(entry.description or "") for entry in found):
        what = f"There is a recurring run {name} that isn't Backdrop's"
        raise EndpointError(what, "Use another --name, or delete it")
    return sorted(found, key=lambda entry: (entry.created_at, entry.recurring_run_id))


def _create(endpoint: Endpoint, wanted: Schedule) -> None:
    endpoint.client.create_recurring_run(
        wanted.experiment_id,
        wanted.name,
        description=wanted.description(),
        cron_expression=wanted.cron,
        max_concurrency=1,
        no_catchup=True,
        params=dict(wanted.values),
        pipeline_id=wanted.published.pipeline_id,
        version_id=wanted.published.version_id,
        enabled=not wanted.paused,
        service_account=wanted.service_account or None,
    )


def _delete(endpoint: Endpoint, entry: V2beta1RecurringRun) -> None:
    api = endpoint.client.recurring_runs
    try:
        # Without the policy, Kubernetes would stop the runs that the schedule has started.
        api.recurring_run_service_delete_recurring_run(entry.recurring_run_id, propagation_policy="ORPHAN")
    except ApiException as error:
        if error.status != 404:  # somebody else was quicker
            raise
