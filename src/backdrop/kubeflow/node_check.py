"""Asks Kubernetes' API whether a task's pod fits on one of the GPU nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError
from backdrop.common.words import count
from backdrop.config.cluster import Toleration
from backdrop.config.quantity import parse_quantity

SHOWN = 3  # nodes that an error names


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
