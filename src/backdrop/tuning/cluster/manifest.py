"""A command as KubeRay's RayJob: a Ray cluster that comes for it and goes after it."""

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from backdrop.common.errors import TuningError
from backdrop.config.cluster import CONFIG_KEYS, SECRET_KEYS, SETTINGS, SHARED_MEMORY, SHARED_MEMORY_SIZE, USER, Cluster
from backdrop.tuning.cluster.auth import USAGE

QUESTION = "backdrop/spec"  # an annotation: the digest of all the rest
NAME = re.compile("[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay's: it makes a Service's name of it
# Not app.kubernetes.io/name: KubeRay's Services find their pods by it.
LABELS = {"app.kubernetes.io/part-of": "backdrop", "app.kubernetes.io/component": "tune"}
# The head runs the command and no trial.
HEAD = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
KEEP_S = 60  # after its end, so that whoever watches sees it even where the operator deletes finished RayJobs


def manifest(cluster: Cluster, name: str, command: Sequence[str]) -> dict[str, Any]:
    """The RayJob that runs a command on a cluster of its own.

    KubeRay submits it itself (HTTPMode): that needs no third pod, and when the head begins again and has forgotten the
    job, it is submitted again. A job that fails gets another cluster; so the command must go on from storage.
    The token of the cluster is KubeRay's own, in a Secret that it makes. Needs KubeRay 1.5.1 or newer.

    Args:
        cluster: what it runs on.
        name: made from a digest of the spec, so that the same spec has the same.
        command: the program and its arguments, as the image knows them.

    Raises:
        TuningError: if it can't be the name of a RayJob.
    """
    if not NAME.fullmatch(name):
        raise TuningError(
            f"{name} can't be a RayJob's name",
            "Use at most 47 small letters, digits and hyphens, a letter first and no hyphen last",
        )
    spec = {
        "entrypoint": shlex.join(command),
        "submissionMode": "HTTPMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEEP_S,
        "backoffLimit": cluster.retries,
        **({"activeDeadlineSeconds": cluster.deadline_s} if cluster.deadline_s else {}),
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _template(cluster, "ray-head", HEAD)},
            "workerGroupSpecs": [_workers(cluster)],
        },
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    metadata = {"name": name, "labels": LABELS, "annotations": {QUESTION: digest}}
    if cluster.namespace:
        metadata["namespace"] = cluster.namespace
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _workers(cluster: Cluster) -> dict[str, Any]:
    limits = {"memory": cluster.memory} | ({cluster.accelerator: str(cluster.gpus)} if cluster.gpus else {})
    resources = {"requests": {"cpu": str(cluster.cpu), "memory": cluster.memory}, "limits": limits}
    template = _template(cluster, "ray-worker", resources)
    volume = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_SIZE}}
    template["spec"]["volumes"] = [volume]
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "shared-memory", "mountPath": SHARED_MEMORY}]
    template["spec"] |= {"nodeSelector": cluster.node_selector, "tolerations": cluster.tolerations}
    return {
        "groupName": "gpu",
        "replicas": cluster.workers,
        "minReplicas": cluster.workers,
        "maxReplicas": cluster.workers,
        # Said outright: KubeRay guesses them from the limits, by the end of the resource's name.
        "rayStartParams": {"num-cpus": str(cluster.cpu), "num-gpus": str(cluster.gpus)},
        "template": template,
    }


def _template(cluster: Cluster, container: str, resources: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A pod that Pod Security's "restricted" admits; KubeRay copies the container's rights to the one that it adds."""
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": cluster.image,
                "env": _environment(),
                "resources": resources,
                "securityContext": rights,
            }
        ],
    }
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    return {"metadata": {"labels": LABELS}, "spec": spec}


def _environment() -> list[dict[str, Any]]:
    """As the pipelines' tasks have it: from the ConfigMap and the Secret, where these have the keys."""
    plain = [{"name": name, "value": value} for name, value in ({"PYTHONUNBUFFERED": "1"} | USAGE).items()]
    kinds = [("configMapKeyRef", key) for key in CONFIG_KEYS] + [("secretKeyRef", key) for key in SECRET_KEYS]
    chosen = [
        {"name": key, "valueFrom": {kind: {"name": SETTINGS, "key": key, "optional": True}}} for kind, key in kinds
    ]
    return plain + chosen
