"""The GPU pool as Kubernetes' API shows it: whether a task's pod could be placed on one of its nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError
from backdrop.common.kubernetes_client import parse_quantity
from backdrop.common.words import count
from backdrop.config.cluster import Toleration

SHOWN = 3  # nodes that an error speaks of


def check_nodes(selector: Mapping[str, str], needs: Mapping[str, str], tolerations: Sequence[Toleration]) -> str:
    """Looks for a node that has the labels and the resources, and no taint that keeps the pod away.

    Args:
        selector: the labels.
        needs: least allocatable amounts by resource, such as `{"nvidia.com/gpu": "1"}`.
        tolerations: the pod's.

    Returns:
        How many nodes would do.

    Raises:
        EndpointError: if none would, saying why, or Kubernetes' API can't be asked.
    """
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    with kubernetes_client.connect() as kubernetes:
        nodes = kubernetes.nodes(selector)
    if not nodes:
        raise EndpointError(f"No node has the labels {labels}", "Mend node_selector, or let the pool have a node")
    against = {node.metadata.name: _against(node, needs, tolerations) for node in nodes}
    fit = [name for name, reason in against.items() if not reason]
    if not fit:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(against.items())[:SHOWN])
        raise EndpointError(
            f"None of {count(len(nodes), 'node')} with these labels would take the pod ({reasons})",
            "Mend tolerations, gpus, cpu or memory, or the nodes",
        )
    return f"{len(fit)} of {count(len(nodes), 'node')} with the labels {labels} can offer {_amounts(needs)}"


def check_rayjobs() -> str:
    """Asks whether KubeRay's RayJob is known.

    Raises:
        EndpointError: if it isn't, or Kubernetes' API can't be asked.
    """
    with kubernetes_client.connect() as kubernetes:
        if "RayJob" not in kubernetes.kinds("ray.io", "v1"):
            raise EndpointError("Kubernetes has no RayJob of ray.io/v1", "Install the KubeRay operator and its CRDs")
    return "ray.io/v1 RayJob is there"


def _against(node: Any, needs: Mapping[str, str], tolerations: Sequence[Toleration]) -> str:
    """What keeps the pod from this node, empty if nothing does."""
    if node.spec.unschedulable:
        return "it's cordoned off"
    for taint in node.spec.taints or []:
        if taint.effect != "PreferNoSchedule" and not any(toleration.covers(taint) for toleration in tolerations):
            return f"taint {taint.key}={taint.value or ''}:{taint.effect} isn't tolerated"
    for resource, amount in needs.items():
        has = (node.status.allocatable or {}).get(resource, "0")
        if parse_quantity(has) < parse_quantity(amount):
            return f"it has {has} of {resource}, not {amount}"
    return ""


def _amounts(needs: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} of {resource}" for resource, amount in needs.items())
