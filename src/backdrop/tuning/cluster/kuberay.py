"""A command on a Ray cluster that KubeRay makes for it: created once, watched from here."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from backdrop.common.errors import TuningError, cause, shorten
from backdrop.common.processes import terminable
from backdrop.common.progress import log
from backdrop.config.cluster import Cluster
from backdrop.tuning.cluster.manifest import QUESTION, manifest

__all__ = ["manifest", "run"]

RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
POLL_S = 10.0
PAUSE_S = 5.0
ANSWER_S = 30
AWAY_S = 600.0  # so long an API server that doesn't answer, or an old RayJob that doesn't go, is waited for
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
AGAIN = "Run the same command again: it goes on where it was"
ENDED_BADLY = ("Failed", "ValidationFailed")


def run(cluster: Cluster, name: str, command: Sequence[str]) -> None:
    """Runs a command as a RayJob until it has succeeded.

    A RayJob of that name that was made for the same command and cluster is watched, and one that failed is made anew.
    If this process is interrupted or gets a SIGTERM while it watches, it tries to delete the RayJob, so that its nodes
    are free. If it just dies, the RayJob goes on, and the next call watches it again.

    Args:
        cluster: what it runs on.
        name: made from a digest of the spec, so that the same spec has the same.
        command: the program and its arguments, as the image knows them; it must go on from storage where it was.

    Raises:
        TuningError: if the RayJob fails or is gone, if another one has its name, or if Kubernetes isn't there or
            forbids it.
    """
    body = manifest(cluster, name, command)
    with _connect() as api, terminable():
        job = _RayJob(api, cluster.namespace or _own_namespace(), name)
        _settle(job, body)
        try:
            _follow(job)
        except (KeyboardInterrupt, SystemExit):
            _abandon(job)
            raise


class _RayJob:
    """One RayJob, by its name; an API server that is away is waited for."""

    def __init__(self, api: Any, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._api, self._where = api, {**RAYJOBS, "namespace": namespace, "_request_timeout": ANSWER_S}

    def __str__(self) -> str:
        return f"RayJob {self.name} in namespace {self.namespace}"

    @property
    def kubectl(self) -> str:
        """How kubectl calls it."""
        return f"rayjob {self.name} -n {self.namespace}"

    def create(self, body: dict[str, Any]) -> bool:
        """Whether it is new."""
        make = self._api.create_namespaced_custom_object
        return self._ask(lambda: make(**self._where, body=body), HTTPStatus.CONFLICT) is not None

    def get(self) -> dict[str, Any] | None:
        """What it is now; None if it isn't."""
        look = self._api.get_namespaced_custom_object
        found: dict[str, Any] | None = self._ask(lambda: look(**self._where, name=self.name), HTTPStatus.NOT_FOUND)
        return found

    def replace(self, uid: str) -> None:
        """Deletes it, if it is still the same, to make room."""
        self._ask(lambda: self.delete(uid), HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

    def delete(self, uid: str | None = None) -> None:
        """Deletes it, and its cluster with it; asks once."""
        only = client.V1DeleteOptions(
            propagation_policy="Background", preconditions=client.V1Preconditions(uid=uid) if uid else None
        )
        self._api.delete_namespaced_custom_object(**self._where, name=self.name, body=only)

    def _ask(self, act: Callable[[], Any], *expected: int) -> Any:
        """What the API server answers; None for an expected refusal."""
        away_since = None
        while True:
            try:
                return act()
            except ApiException as error:
                if error.status in expected:
                    return None
                if error.status < 500 and error.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise self._refused(error) from error
                failure: Exception = error
            except HTTPError as error:
                failure = error
            if away_since is None:
                away_since = time.monotonic()
                log(f"Kubernetes doesn't answer ({_words(failure)}); trying for {AWAY_S / 60:.0f} minutes")
            elif time.monotonic() - away_since > AWAY_S:
                raise TuningError(f"Kubernetes doesn't answer ({_words(failure)})", AGAIN) from failure
            time.sleep(PAUSE_S)

    def _refused(self, error: ApiException) -> TuningError:
        words = _words(error)
        if error.status == HTTPStatus.FORBIDDEN:
            rule = f"create, get and delete rayjobs of ray.io in namespace {self.namespace}"
            return TuningError(f"Kubernetes forbids it ({words})", f"A Role must let us {rule}")
        if error.status == HTTPStatus.UNAUTHORIZED:
            return TuningError(f"Kubernetes doesn't take our credentials ({words})", "Log in again")
        if error.status == HTTPStatus.NOT_FOUND:
            return TuningError(
                f"There can be no {self} ({words})", "Check the namespace, and that KubeRay 1.5.1 or newer is installed"
            )
        return TuningError(f"Kubernetes doesn't take {self} ({words})", "Mend what it says")


def _settle(job: _RayJob, body: dict[str, Any]) -> None:
    """Makes it, or finds it made; one that failed, or is about to go, makes room."""
    deadline = time.monotonic() + AWAY_S
    while not job.create(body):
        found = job.get()
        if found is None:
            continue
        metadata = found["metadata"]
        ours = metadata.get("annotations", {}).get(QUESTION)
        if "deletionTimestamp" not in metadata:
            if not (ours and _failed(found.get("status", {}))):
                if ours != body["metadata"]["annotations"][QUESTION]:
                    raise TuningError(
                        f"{job} was made for another command or cluster",
                        f"Wait for it, or `kubectl delete {job.kubectl}`",
                    )
                return
            job.replace(metadata["uid"])
        if time.monotonic() > deadline:
            raise TuningError(f"{job} doesn't go", "Check that KubeRay's operator runs")
        time.sleep(PAUSE_S)


def _follow(job: _RayJob) -> None:
    """Says how it fares, until it has succeeded."""
    notify = ""
    while True:
        found = job.get()
        if found is None:
            raise TuningError(f"{job} is gone: somebody deleted it", AGAIN)
        status = found.get("status", {})
        if (now := _summary(status)) != notify:
            notify = now
            log(f"{job}: {now}")
        if status.get("jobStatus") == "SUCCEEDED":
            return
        if _failed(status):
            why = ": ".join(filter(None, [status.get("reason"), cause(status.get("message"))]))
            raise TuningError(f"{job} failed ({why})", f"Look at `kubectl describe {job.kubectl}`. {AGAIN}")
        time.sleep(POLL_S)


def _failed(status: dict[str, Any]) -> bool:
    """Whether it has come to a bad end, and not only to another try."""
    return status.get("jobDeploymentStatus") in ENDED_BADLY or status.get("jobStatus") == "STOPPED"


def _summary(status: dict[str, Any]) -> str:
    stage = status.get("jobDeploymentStatus") or "waits for KubeRay's operator"
    workers = status.get("rayClusterStatus", {})
    ready = f"{workers.get('readyWorkerReplicas', 0)} of {workers.get('desiredWorkerReplicas', 0)} workers ready"
    return ", ".join(filter(None, [stage, status.get("jobStatus"), ready if workers else ""]))


def _abandon(job: _RayJob) -> None:
    """Frees its nodes, if it can."""
    try:
        job.delete()
        log(f"{job} is deleted; the same command goes on where it was")
    except (ApiException, HTTPError) as error:
        log(f"{job} goes on, for it can't be deleted ({_words(error)}): `kubectl delete {job.kubectl}`")


@contextlib.contextmanager
def _connect() -> Iterator[Any]:
    """The API server of the cluster that we run in, else of the kubeconfig's context."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except ConfigException:
        try:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        except ConfigException as error:
            raise TuningError(
                f"There is no way to a Kubernetes cluster ({shorten(error)})", "Set KUBECONFIG"
            ) from error
    with client.ApiClient(settings) as api:
        yield client.CustomObjectsApi(api)


def _own_namespace() -> str:
    if OWN_NAMESPACE.exists():
        return OWN_NAMESPACE.read_text().strip()
    _, active = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    return str(active["context"].get("namespace", "default"))


def _words(error: Exception) -> str:
    """The API server's own, if it said any."""
    try:
        return shorten(json.loads(getattr(error, "body", ""))["message"])
    except (ValueError, TypeError, KeyError):
        return shorten(getattr(error, "reason", None) or error)
