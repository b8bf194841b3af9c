"""Asks Kubernetes' API whether a run's pods fit on a node, and what happens if they are lost there."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError
from backdrop.common.kubernetes_client import ApiError
from backdrop.common.words import count
from backdrop.config.cluster import Toleration
from backdrop.config.quantity import parse_quantity
from backdrop.pipelines.parameters import tolerations_of

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
DRIVER = {"cpu": "100m", "memory": "64Mi"}
DRIVERS_REMEDY = f"Fix workflowDefaults.spec.tolerations in {ARGO_SETTINGS} of namespace {ARGO_NAMESPACE}"


def check_nodes(
    selector: Mapping[str, str], needs: Mapping[str, str], tolerations: Sequence[Toleration], prefix: str = ""
) -> str:
    """Looks for a node with the labels and the resources, and with no taint that the pod doesn't tolerate.

    Args:
        selector: the labels.
        needs: required allocatable amount of each resource, such as `{"nvidia.com/gpu": "1"}`.
        tolerations: the pod's.
        prefix: of the parameters that gave the labels and the tolerations.

    Returns:
        A sentence that says how many nodes fit.

    Raises:
        EndpointError: if none fits, with the reasons, or Kubernetes' API can't be reached.
    """
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    labeled = f" with the labels {labels}" if labels else ""
    with kubernetes_client.connect() as kubernetes:
        nodes = kubernetes.nodes(selector)
    if not nodes:
        raise EndpointError(f"There is no node{labeled}", f"Fix {prefix}node_selector, or add a node to the pool")
    obstacles = {node.metadata.name: _obstacle(node, needs, tolerations) for node in nodes}
    fit = [name for name, obstacle in obstacles.items() if not obstacle]
    if not fit:
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in list(obstacles.items())[:SHOWN])
        raise EndpointError(
            f"The pod fits on none of {count(len(nodes), 'node')}{labeled} ({reasons})",
            f"Fix {prefix}tolerations{'' if prefix else ', gpus, cpu or memory'}, or the nodes",
        )
    return f"{len(fit)} of {count(len(nodes), 'node')}{labeled} can offer {_amounts(needs)}"


def check_drivers() -> str:
    """Checks that the pods fit somewhere that Kubeflow itself starts for each task: they have Argo's defaults.

    It is no fault if we may not read them.

    Raises:
        EndpointError: if they don't fit, or Kubernetes' API can't be reached.
    """
    try:
        spec = _workflow_defaults()
    except EndpointError as error:
        return f"where Kubeflow's own pods run isn't known: {error.what}"
    tolerations = tolerations_of("workflowDefaults: tolerations", spec.get("tolerations") or [])
    try:
        return check_nodes(spec.get("nodeSelector") or {}, DRIVER, tolerations)
    except ApiError:
        raise
    except EndpointError as error:
        raise EndpointError(f"Kubeflow's own pods for each task fit nowhere: {error.what}", DRIVERS_REMEDY) from error


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
        found: Any = _workflow_defaults()
    except EndpointError as error:
        return f"which losses Argo tries again isn't known: {error.what}"
    for key in ("templateDefaults", "retryStrategy", "retryPolicy"):
        found = found.get(key) if isinstance(found, dict) else None
    policy = str(found or DEFAULT_POLICY)  # of templates that name none, as all of Kubeflow's
    return f"Argo {RETRIED.get(policy, f'has the retryPolicy {policy}')} ({policy})"


def _workflow_defaults() -> dict[str, Any]:
    """What Argo adds to the spec of each workflow; empty if it can't be read as YAML."""
    with kubernetes_client.connect() as kubernetes:
        settings = kubernetes.config_map(ARGO_NAMESPACE, ARGO_SETTINGS)
    found: Any = {}
    with contextlib.suppress(yaml.YAMLError):
        found = yaml.safe_load(settings.get("workflowDefaults") or "")
    spec = found.get("spec") if isinstance(found, dict) else None
    return spec if isinstance(spec, dict) else {}


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
