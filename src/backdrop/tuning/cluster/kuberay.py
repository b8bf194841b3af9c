"""Runs a command on a Ray cluster that KubeRay creates for it: created once, watched from here."""

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
from backdrop.tuning.cluster.manifest import SPEC, manifest

RAYJOBS = Resource("ray.io", "v1", "rayjobs")
POLL_S = 10.0
# For an API server that doesn't answer, or an old RayJob that isn't deleted.
POLICY = RetryPolicy(pause_s=5.0, max_pause_s=5.0, give_up_s=600.0)
AGAIN = "Run the same command again to resume"
ENDED_BADLY = ("Failed", "ValidationFailed")

T = TypeVar("T")


def run(cluster: Cluster, name: str, command: Sequence[str]) -> None:
    """Runs a command as a RayJob until it has succeeded.

    An existing RayJob of that name for the same command and cluster is watched; one that failed is replaced. If this
    process is interrupted or gets a SIGTERM while it watches, it tries to delete the RayJob to free its nodes. If it is
    killed, the RayJob continues, and the next call watches it again.

    Args:
        cluster: where it runs.
        name: contains the spec's digest, so that the same spec has the same name.
        command: the program and its arguments in the image; when it runs again, it must resume from storage.

    Raises:
        TuningError: if the RayJob fails or was deleted, if another one has its name, or if Kubernetes doesn't answer or
            denies permission.
    """
    body = manifest(cluster, name, command)
    with kubernetes_client.connect() as kubernetes, terminable():
        job = _RayJob(kubernetes, cluster.namespace or own_namespace(), name)
        _create(job, body)
        try:
            _follow(job)
        except (KeyboardInterrupt, SystemExit):
            _delete(job)
            raise


class _RayJob:
    """One RayJob, by its name; requests are retried while the API server is away."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._kubernetes = kubernetes

    def __str__(self) -> str:
        return f"RayJob {self.name} in namespace {self.namespace}"

    @property
    def kubectl(self) -> str:
        """Its name in a kubectl command."""
        return f"rayjob {self.name} -n {self.namespace}"

    def create(self, body: dict[str, Any]) -> bool:
        """Creates it unless it exists, and returns whether it is new."""

        def create() -> bool:
            self._kubernetes.create(RAYJOBS, self.namespace, body)
            return True

        return bool(self._call(create, HTTPStatus.CONFLICT))

    def get(self) -> dict[str, Any] | None:
        """Its current state; None if it doesn't exist."""
        return self._call(lambda: self._kubernetes.get(RAYJOBS, self.namespace, self.name), HTTPStatus.NOT_FOUND)

    def remove(self, uid: str) -> None:
        """Deletes it if it still has this uid, to make room for a new one."""
        self._call(lambda: self.delete(uid), HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

    def delete(self, uid: str | None = None) -> None:
        """Deletes it and its cluster, without retries."""
        self._kubernetes.delete(RAYJOBS, self.namespace, self.name, uid)

    def _call(self, act: Callable[[], T], *expected: int) -> T | None:
        """The API server's answer; None for one of the expected error statuses."""
        try:
            return retry(act, POLICY, _is_transient, trying("Kubernetes doesn't answer", POLICY, _words))
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
            return TuningError(f"Kubernetes denies permission ({words})", f"Add a Role that allows you to {rule}")
        if error.status == HTTPStatus.UNAUTHORIZED:
            return TuningError(f"Kubernetes rejects your credentials ({words})", "Log in again")
        if error.status == HTTPStatus.NOT_FOUND:
            return TuningError(
                f"{self} can't be created ({words})",
                "Check the namespace, and that KubeRay 1.5.1 or newer is installed",
            )
        return TuningError(f"Kubernetes rejects {self} ({words})", "Fix what its message says")


def _create(job: _RayJob, body: dict[str, Any]) -> None:
    """Creates it, or keeps an existing one of the same spec; one that failed or is being deleted is replaced."""
    deadline = time.monotonic() + POLICY.give_up_s
    while not job.create(body):
        existing = job.get()
        if existing is None:
            continue
        metadata = existing["metadata"]
        digest = metadata.get("annotations", {}).get(SPEC)
        if "deletionTimestamp" not in metadata:
            if not (digest and _failed(existing.get("status", {}))):
                if digest != body["metadata"]["annotations"][SPEC]:
                    raise TuningError(
                        f"{job} was created for another command or cluster",
                        f"Wait until it ends, or run `kubectl delete {job.kubectl}`",
                    )
                return
            job.remove(metadata["uid"])
        if time.monotonic() > deadline:
            raise TuningError(f"{job} isn't deleted", "Check that KubeRay's operator is running")
        time.sleep(POLICY.pause_s)


def _follow(job: _RayJob) -> None:
    """Logs each change of its state until it has succeeded."""
    shown = ""
    while True:
        current = job.get()
        if current is None:
            raise TuningError(f"{job} is gone: another client deleted it", AGAIN)
        status = current.get("status", {})
        if (summary := _summary(status)) != shown:
            shown = summary
            log(f"{job}: {summary}")
        if status.get("jobStatus") == "SUCCEEDED":
            return
        if _failed(status):
            reason = ": ".join(filter(None, [status.get("reason"), cause(status.get("message"))]))
            raise TuningError(f"{job} failed ({reason})", f"See `kubectl describe {job.kubectl}`. {AGAIN}")
        time.sleep(POLL_S)


def _failed(status: dict[str, Any]) -> bool:
    """Whether it has failed for good, with no retry left."""
    return status.get("jobDeploymentStatus") in ENDED_BADLY or status.get("jobStatus") == "STOPPED"


def _summary(status: dict[str, Any]) -> str:
    stage = status.get("jobDeploymentStatus") or "waiting for KubeRay's operator"
    workers = status.get("rayClusterStatus", {})
    ready = f"{workers.get('readyWorkerReplicas', 0)} of {workers.get('desiredWorkerReplicas', 0)} workers ready"
    return ", ".join(filter(None, [stage, status.get("jobStatus"), ready if workers else ""]))


def _delete(job: _RayJob) -> None:
    """Deletes it to free its nodes, if possible."""
    try:
        job.delete()
        log(f"{job} is deleted; run the same command again to resume")
    except ApiError as error:
        log(f"{job} can't be deleted and keeps running ({error.words}): run `kubectl delete {job.kubectl}`")


def _is_transient(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.may_pass


def _words(error: Exception) -> str:
    return getattr(error, "words", str(error))
