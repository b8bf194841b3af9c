"""A command on a Ray cluster that KubeRay makes for it: created once, watched from here."""

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from backdrop.common import kubernetes_client
from backdrop.common.errors import TuningError, cause
from backdrop.common.kubernetes_client import ApiError, Kubernetes, Resource, own_namespace
from backdrop.common.processes import terminable
from backdrop.common.progress import log
from backdrop.common.retry import RetryPolicy, retry, trying
from backdrop.config.cluster import Cluster
from backdrop.tuning.cluster.manifest import QUESTION, manifest

__all__ = ["manifest", "run"]

RAYJOBS = Resource("ray.io", "v1", "rayjobs")
POLL_S = 10.0
# For an API server that doesn't answer, or an old RayJob that doesn't go.
POLICY = RetryPolicy(pause_s=5.0, max_pause_s=5.0, give_up_s=600.0)
AGAIN = "Run the same command again: it goes on where it was"
ENDED_BADLY = ("Failed", "ValidationFailed")

T = TypeVar("T")


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
    with kubernetes_client.connect() as kubernetes, terminable():
        job = _RayJob(kubernetes, cluster.namespace or own_namespace(), name)
        _settle(job, body)
        try:
            _follow(job)
        except (KeyboardInterrupt, SystemExit):
            _abandon(job)
            raise


class _RayJob:
    """One RayJob, by its name; an API server that is away is waited for."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._kubernetes = kubernetes

    def __str__(self) -> str:
        return f"RayJob {self.name} in namespace {self.namespace}"

    @property
    def kubectl(self) -> str:
        """How kubectl calls it."""
        return f"rayjob {self.name} -n {self.namespace}"

    def create(self, body: dict[str, Any]) -> bool:
        """Whether it is new."""

        def make() -> bool:
            self._kubernetes.create(RAYJOBS, self.namespace, body)
            return True

        return bool(self._ask(make, HTTPStatus.CONFLICT))

    def get(self) -> dict[str, Any] | None:
        """What it is now; None if it isn't."""
        return self._ask(lambda: self._kubernetes.get(RAYJOBS, self.namespace, self.name), HTTPStatus.NOT_FOUND)

    def replace(self, uid: str) -> None:
        """Deletes it, if it is still the same, to make room."""
        self._ask(lambda: self.delete(uid), HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

    def delete(self, uid: str | None = None) -> None:
        """Deletes it, and its cluster with it; asks once."""
        self._kubernetes.delete(RAYJOBS, self.namespace, self.name, uid)

    def _ask(self, act: Callable[[], T], *expected: int) -> T | None:
        """What the API server answers; None for an expected refusal."""
        try:
            return retry(act, POLICY, _may_pass, trying("Kubernetes doesn't answer", POLICY, _words))
        except ApiError as error:
            if error.status in expected:
                return None
            raise self._refused(error) from error

    def _refused(self, error: ApiError) -> TuningError:
        words = error.words
        if error.may_pass:
            return TuningError(f"Kubernetes doesn't answer ({words})", AGAIN)
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
    deadline = time.monotonic() + POLICY.give_up_s
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
        time.sleep(POLICY.pause_s)


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
    except ApiError as error:
        log(f"{job} goes on, for it can't be deleted ({error.words}): `kubectl delete {job.kubectl}`")


def _may_pass(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.may_pass


def _words(error: Exception) -> str:
    return getattr(error, "words", str(error))
