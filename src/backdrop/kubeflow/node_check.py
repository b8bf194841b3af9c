"""The GPU pool as Kubernetes' API shows it: whether a task's pod could be placed on one of its nodes."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.utils.quantity import parse_quantity

from backdrop.common.errors import EndpointError
from backdrop.config.cluster import Toleration

TIMEOUT_S = 60
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
    with _asked("list nodes") as api:
        nodes = client.CoreV1Api(api).list_node(label_selector=labels, _request_timeout=TIMEOUT_S).items
    if not nodes:
        raise EndpointError(f"No node has the labels {labels}", "Mend node_selector, or let the pool have a node")
    against = {node.metadata.name: _against(node, needs, tolerations) for node in nodes}
    fit = [name for name, reason in against.items() if not reason]
    if not fit:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(against.items())[:SHOWN])
        raise EndpointError(
            f"None of {len(nodes)} nodes with these labels would take the pod ({reasons})",
            "Mend tolerations, gpus, cpu or memory, or the nodes",
        )
    return f"{len(fit)} of {len(nodes)} nodes with the labels {labels} have {_amounts(needs)}"


def check_rayjobs() -> str:
    """Asks whether KubeRay's RayJob is known.

    Raises:
        EndpointError: if it isn't, or Kubernetes' API can't be asked.
    """
    missing = EndpointError("Kubernetes has no RayJob of ray.io/v1", "Install the KubeRay operator and its CRDs")
    with _asked("look for RayJob", missing) as api:
        found = client.CustomObjectsApi(api).get_api_resources("ray.io", "v1", _request_timeout=TIMEOUT_S)
    if "RayJob" not in {resource.kind for resource in found.resources}:
        raise missing
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


@contextlib.contextmanager
def _asked(what: str, missing: EndpointError | None = None) -> Iterator[Any]:
    """A client of Kubernetes' API, of the pod's own cluster or of the kubeconfig; its errors in our words."""
    settings = _settings()
    try:
        with client.ApiClient(settings) as api:
            yield api
    except client.ApiException as error:
        if error.status == 404 and missing:
            raise missing from error
        remedy = "Give the account that right, or run this with another"
        refused = f"Kubernetes at {settings.host} doesn't let us {what} ({error.status} {error.reason})"
        raise EndpointError(refused, remedy) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise EndpointError(f"Kubernetes at {settings.host} doesn't answer ({reason})", "Mend KUBECONFIG") from error


def _settings() -> client.Configuration:
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=settings)
        except config.ConfigException as error:
            remedy = "Run it in a pod, or set KUBECONFIG"
            raise EndpointError(f"No Kubernetes API is known here ({error})", remedy) from error
    return settings
