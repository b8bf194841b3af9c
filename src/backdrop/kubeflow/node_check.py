"""Asks Kubernetes' API whether a task's pod fits on one of the GPU nodes, and what happens if it is lost there."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError
from backdrop.common.words import count
from backdrop.config.cluster import Toleration
from backdrop.config.quantity import parse_quantity

SHOWN = 3  # nodes that an error names
# Argo's settings, where Kubeflow Pipelines installs it, and its words for which ends of a pod are tried again.
ARGO_NAMESPACE, ARGO_SETTINGS = "kubeflow", "workflow-controller-configmap"
HEAL = "start what is lost again with `backdrop pipeline heal`"
RETRIED = {
    "Always": "tries again pods that are lost and containers that die",
    "OnError": "tries again pods that are lost; containers that die aren't, so tasks start their own work again",
    "OnFailure": f"tries again containers that die; pods that are lost may not be: {HEAL}",
    "OnTransientError": f"tries again neither pods that are lost nor containers that die: {HEAL}",
}
DEFAULT_POLICY = "OnFailure"


def check_nodes(selector: Mapping[str, str], needs: Mapping[str, str], tolerations: Sequence[Toleration]) -> str:
    """Looks for a node with the labels and the resources, and with no taint that the pod doesn't tolerate.

    Args:
        selector: the labels.
        needs: required allocatable amount of each resource, such as `{"nvidia.com/gpu": "1"}`.
        tolerations: the pod's.

    Returns:
        A sentence that says how many nodes fit.

    Raises:
        EndpointError: if none fits, with the reasons, or Kubernetes' API can't be reached.
    """
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    with kubernetes_client.connect() as kubernetes:
        nodes = kubernetes.nodes(selector)
    if not nodes:
        raise EndpointError(f"No node has the labels {labels}", "Fix node_selector, or add a node to the pool")
    obstacles = {node.metadata.name: _obstacle(node, needs, tolerations) for node in nodes}
    fit = [name for name, obstacle in obstacles.items() if not obstacle]
    if not fit:
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in list(obstacles.items())[:SHOWN])
        raise EndpointError(
            f"The pod fits on none of {count(len(nodes), 'node')} with these labels ({reasons})",
            "Fix tolerations, gpus, cpu or memory, or the nodes",
        )
    return f"{len(fit)} of {count(len(nodes), 'node')} with the labels {labels} can offer {_amounts(needs)}"


def check_rayjobs() -> str:
    """Checks that KubeRay's RayJob is installed.

    Raises:
        EndpointError: if it isn't, or Kubernetes' API can't be reached.
    """
    with kubernetes_client.connect() as kubernetes:
        if "RayJob" not in kubernetes.kinds("ray.io", "v1"):
            raise EndpointError("Kubernetes has no ray.io/v1 RayJob", "Install the KubeRay operator and its CRDs")
    return "ray.io/v1 RayJob is installed"


def check_retries() -> str:
    """Says which losses Argo makes up for; it is no fault if we may not read that."""
    try:
        with kubernetes_client.connect() as kubernetes:
            settings = kubernetes.config_map(ARGO_NAMESPACE, ARGO_SETTINGS)
    except EndpointError as error:
        return f"which losses Argo tries again isn't known: {error.what}"
    policy = _policy(settings)
    return f"Argo {RETRIED.get(policy, f'has the retryPolicy {policy}')} ({policy})"


def _policy(settings: Mapping[str, str]) -> str:
    """The retryPolicy of templates that name none, as all of Kubeflow's."""
    found: Any = {}
    with contextlib.suppress(yaml.YAMLError):
        found = yaml.safe_load(settings.get("workflowDefaults") or "")
    for key in ("spec", "templateDefaults", "retryStrategy", "retryPolicy"):
        found = found.get(key) if isinstance(found, dict) else None
    return str(found or DEFAULT_POLICY)


def _obstacle(node: Any, needs: Mapping[str, str], tolerations: Sequence[Toleration]) -> str:
    """Why the pod doesn't fit on this node; empty if it does."""
    if node.spec.unschedulable:
        return "it's cordoned"
    for taint in node.spec.taints or []:
        if taint.effect != "PreferNoSchedule" and not any(toleration.covers(taint) for toleration in tolerations):
            return f"taint {taint.key}={taint.value or ''}:{taint.effect} isn't tolerated"
    for resource, amount in needs.items():
        offered = (node.status.allocatable or {}).get(resource, "0")
        if parse_quantity(offered) < parse_quantity(amount):
            return f"it offers {offered} of {resource}, not {amount}"
    return ""


def _amounts(needs: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} of {resource}" for resource, amount in needs.items())
