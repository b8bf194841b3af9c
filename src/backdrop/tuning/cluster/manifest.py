"""The manifest of a KubeRay RayJob, which runs a command on a Ray cluster of its own."""

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from backdrop.common.errors import TuningError
from backdrop.config.cluster import (
    CONFIG_KEYS,
    NETWORK,
    NETWORK_FOLDER,
    NETWORK_KEYS,
    SECRET_KEYS,
    SETTINGS,
    SHARED_MEMORY,
    SHARED_MEMORY_SIZE,
    Cluster,
    Toleration,
)
from backdrop.config.quantity import parse_quantity
from backdrop.tuning.cluster.auth import USAGE

SPEC = "backdrop/spec"  # the annotation with the spec's digest
NAME = re.compile("[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay derives a Service's name from it
# Not app.kubernetes.io/name: KubeRay's Services find their pods by it.
LABELS = {"app.kubernetes.io/part-of": "backdrop", "app.kubernetes.io/component": "tune"}
KEEP_S = 60  # a finished RayJob is kept this long, so that we see its end before the operator deletes it


def manifest(cluster: Cluster, name: str, command: Sequence[str]) -> dict[str, Any]:
    """The RayJob that runs a command on a cluster of its own.

    KubeRay's operator submits it (HTTPMode): this needs no third pod, and if the head restarts and forgets the job, the
    operator submits it again. A failed job is retried on a new cluster, so the command must resume from storage.
    KubeRay creates the cluster's token in a Secret. Needs KubeRay 1.5.1 or newer.

    Args:
        cluster: where it runs.
        name: contains the spec's digest, so that the same spec has the same name.
        command: the program and its arguments in the image.

    Raises:
        TuningError: if `name` isn't a valid RayJob name.
    """
    if not NAME.fullmatch(name):
        raise TuningError(
            f"{name} can't be a RayJob's name",
            "Use at most 47 lowercase letters, digits and hyphens; start with a letter, don't end with a hyphen",
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
            "headGroupSpec": _head(cluster),
            "workerGroupSpecs": [_workers(cluster)],
        },
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    metadata = {"name": name, "labels": {**cluster.labels, **LABELS}, "annotations": {SPEC: digest}}
    if cluster.namespace:
        metadata["namespace"] = cluster.namespace
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _head(cluster: Cluster) -> dict[str, Any]:
    """The head runs the command, but no trials."""
    amounts = _amounts(cluster, cluster.head_cpu, cluster.head_memory)
    template = _template(cluster, "ray-head", {"requests": amounts, "limits": amounts})
    template["spec"] |= _nodes(cluster.head_node_selector, cluster.head_tolerations)
    return {"rayStartParams": {"num-cpus": "0"}, "template": template}


def _workers(cluster: Cluster) -> dict[str, Any]:
    amounts = _amounts(cluster, cluster.cpu, cluster.memory)
    gpus = {cluster.accelerator: str(cluster.gpus)} if cluster.gpus else {}
    resources = {"requests": amounts, "limits": amounts | gpus}
    template = _template(cluster, "ray-worker", resources)
    volume = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_SIZE}}
    template["spec"]["volumes"].append(volume)
    template["spec"]["containers"][0]["volumeMounts"].append({"name": "shared-memory", "mountPath": SHARED_MEMORY})
    template["spec"] |= _nodes(cluster.node_selector, cluster.tolerations)
    if cluster.affinity:
        template["spec"]["affinity"] = cluster.affinity
    return {
        "groupName": "gpu",
        "replicas": cluster.workers,
        "minReplicas": cluster.workers,
        "maxReplicas": cluster.workers,
        # Set explicitly: KubeRay would guess them from the limits, by the end of the resource's name.
        "rayStartParams": {"num-cpus": _whole_cores(cluster.cpu), "num-gpus": str(cluster.gpus)},
        "template": template,
    }


def _amounts(cluster: Cluster, cpu: str, memory: str) -> dict[str, str]:
    """What a pod requests, and is limited to: a quota may demand both. Each pod copies the dataset, the head's too."""
    return {"cpu": cpu, "memory": memory} | ({"ephemeral-storage": cluster.storage} if cluster.storage else {})


def _nodes(selector: dict[str, str], tolerations: Sequence[Toleration]) -> dict[str, Any]:
    """Where a pod may run."""
    written = [toleration.model_dump(by_alias=True, exclude_unset=True) for toleration in tolerations]
    return {"nodeSelector": selector, "tolerations": written}


def _whole_cores(cpu: str) -> str:
    """The cores that Ray counts: it takes whole ones only."""
    return str(max(1, int(parse_quantity(cpu))))


def _template(cluster: Cluster, container: str, resources: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A pod template for Pod Security level "restricted"; KubeRay adds a container with the same security context.

    The user is the image's, or one that the cluster assigns.
    """
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": cluster.image,
                "env": _environment(),
                "resources": resources,
                "securityContext": rights,
                "volumeMounts": [{"name": "network", "mountPath": NETWORK_FOLDER, "readOnly": True}],
            }
        ],
        "volumes": [{"name": "network", "configMap": {"name": NETWORK, "optional": True}}],
    }
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    if cluster.priority_class:
        spec["priorityClassName"] = cluster.priority_class
    return {"metadata": {"labels": {**cluster.labels, **LABELS}}, "spec": spec}


def _environment() -> list[dict[str, Any]]:
    """The same environment as a pipeline task's: optional keys of ConfigMaps and a Secret."""
    plain = [{"name": name, "value": value} for name, value in ({"PYTHONUNBUFFERED": "1"} | USAGE).items()]
    sources = (
        ("configMapKeyRef", SETTINGS, CONFIG_KEYS),
        ("configMapKeyRef", NETWORK, NETWORK_KEYS),
        ("secretKeyRef", SETTINGS, SECRET_KEYS),
    )
    chosen = [
        {"name": key, "valueFrom": {kind: {"name": name, "key": key, "optional": True}}}
        for kind, name, keys in sources
        for key in keys
    ]
    return plain + chosen
