"""Recurring runs on a Kubeflow endpoint: exactly one per name, even after a call that was killed halfway.

KFP's recurring runs can't be changed, and two can share a name. So each has its settings' digest in its description.
One whose settings differ is replaced: the new one is created before the old one is deleted, and the next call removes
duplicates that a killed call left.
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
ROUNDS = 10  # more are needed only if another client keeps changing the same recurring run


@dataclass(frozen=True)
class RecurringRun:
    """The settings of a recurring run: a pinned version, when it runs, in which experiment, with what parameters."""

    name: str
    cron: str
    published: Published
    experiment_id: str
    values: Mapping[str, Any]
    service_account: str = ""
    paused: bool = False

    def digest(self) -> str:
        """sha256 of the settings without `paused`, which the endpoint reports itself."""
        settings = dataclasses.asdict(self)
        del settings["paused"], settings["published"]["new"]
        return storage.sha256(json.dumps(settings, sort_keys=True).encode())

    def description(self) -> str:
        """Marks the recurring run as ours, and shows later whether its settings changed."""
        return f"Backdrop: {self.published.name} {self.published.version}, sha256:{self.digest()}"

    def matches(self, entry: V2beta1RecurringRun) -> bool:
        """Whether the endpoint's recurring run has these settings."""
        return bool(entry.description == self.description() and (entry.mode == RecurringRunMode.DISABLE) == self.paused)


def reconcile(endpoint: Endpoint, desired: RecurringRun) -> str:
    """Creates or replaces the recurring run of that name, so that there is one and it has these settings.

    Two calls at the same time may undo each other's work; each checks again until it sees only its own.

    Returns:
        What was done: `created`, `unchanged` or `replaced`.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses the request, a recurring run of that name isn't
            Backdrop's, or another client keeps changing it.
    """
    with endpoint.errors():
        existing = ours(endpoint, desired.name)
        done = "unchanged" if any(map(desired.matches, existing)) else "replaced" if existing else "created"
        for _ in range(ROUNDS):
            matching = [entry for entry in existing if desired.matches(entry)]
            if not matching:
                _create(endpoint, desired)
            for entry in existing:
                if matching and entry is not matching[0]:
                    _delete(endpoint, entry)
            if len(existing) == len(matching) == 1:
                return done
            existing = ours(endpoint, desired.name)
    raise EndpointError(f"Another client keeps changing the recurring run {desired.name}", "Stop one of the two")


def remove(endpoint: Endpoint, name: str) -> int:
    """Deletes a recurring run if it exists; runs that it started continue.

    Returns:
        How many were deleted.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses the request, or a recurring run of that name isn't
            Backdrop's.
    """
    with endpoint.errors():
        existing = ours(endpoint, name)
        for entry in existing:
            _delete(endpoint, entry)
    return len(existing)


def ours(endpoint: Endpoint, name: str = "") -> list[V2beta1RecurringRun]:
    """Backdrop's recurring runs, of one name or all, oldest first.

    Raises:
        EndpointError: if one of that name isn't Backdrop's.
    """
    listing, namespace = endpoint.client.list_recurring_runs, {"namespace": endpoint.namespace}
    if not name:
        every = endpoint.every(listing, "recurring_runs", **namespace)
        return [entry for entry in every if MARK.match(entry.description or "")]
    existing = endpoint.named(listing, "recurring_runs", name, **namespace)
    if not all(MARK.match(entry.description or "") for entry in existing):
        what = f"The recurring run {name} exists, but isn't Backdrop's"
        raise EndpointError(what, "Use another --name, or delete it")
    return sorted(existing, key=lambda entry: (entry.created_at, entry.recurring_run_id))


def _create(endpoint: Endpoint, desired: RecurringRun) -> None:
    endpoint.client.create_recurring_run(
        desired.experiment_id,
        desired.name,
        description=desired.description(),
        cron_expression=desired.cron,
        max_concurrency=1,
        no_catchup=True,
        params=dict(desired.values),
        pipeline_id=desired.published.pipeline_id,
        version_id=desired.published.version_id,
        enabled=not desired.paused,
        service_account=desired.service_account or None,
    )


def _delete(endpoint: Endpoint, entry: V2beta1RecurringRun) -> None:
    api = endpoint.client.recurring_runs
    try:
        # Without the policy, Kubernetes would stop the runs that it has started.
        api.recurring_run_service_delete_recurring_run(entry.recurring_run_id, propagation_policy="ORPHAN")
    except ApiException as error:
        if error.status != 404:  # another client has deleted it
            raise
