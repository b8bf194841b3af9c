"""Asks Kubernetes' API whether a namespace's ResourceQuotas and LimitRanges admit the pods of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError
from backdrop.common.kubernetes_client import ApiError
from backdrop.common.words import count
from backdrop.config.quantity import parse_quantity

COMPUTE = ("cpu", "memory", "ephemeral-storage")  # of which a quota demands an amount in every pod
SCOPES = {"NotTerminating", "NotBestEffort"}  # a task has no deadline, but requests
Amounts = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    """What a pod's container requests and is limited to, by resource."""

    requests: Amounts
    limits: Amounts


def check_quotas(namespace: str, units: Mapping[str, Sequence[Pod]]) -> str:
    """Checks that each unit is admitted while nothing else runs in the namespace.

    Args:
        namespace: where the run takes place.
        units: pods that run at the same time, by what they are.

    Returns:
        A sentence that says how many of each unit have room now, or that we may not read the quotas.

    Raises:
        EndpointError: if a quota or a limit range refuses a unit, or Kubernetes' API can't be reached.
    """
    with kubernetes_client.connect() as kubernetes:
        try:
            quotas, ranges = kubernetes.quotas(namespace), kubernetes.limit_ranges(namespace)
        except ApiError as error:
            return f"whether a quota refuses pods isn't known: {error.what}"
    limits = [item for one in ranges for item in one.spec.limits]
    quotas = [quota for quota in quotas if SCOPES.issuperset(quota.spec.scopes or ()) and not quota.spec.scope_selector]
    rooms = []
    for name, pods in units.items():
        defaulted = [_with_defaults(pod, limits) for pod in pods]
        obstacles = [found for pod in defaulted for found in _refused_by_limits(pod, limits)]
        obstacles += [found for quota in quotas for found in _refused_by_quota(defaulted, quota)]
        if obstacles:
            raise EndpointError(
                f"Namespace {namespace} refuses {name}: {'; '.join(dict.fromkeys(obstacles))}",
                "Ask for less (cpu, memory, gpus), or have the quota or the limit range changed",
            )
        rooms.append(f"{_room(defaulted, quotas)} of {name}")
    if not quotas:
        return f"no quota in namespace {namespace}"
    return f"{count(len(quotas), 'quota')} in namespace {namespace}; now there is room for {', '.join(rooms)}"


def _with_defaults(pod: Pod, limits: Sequence[Any]) -> Pod:
    """The pod with what the namespace's limit ranges give a container that doesn't say."""
    for item in limits:
        if item.type == "Container":
            limited = {**(item.default or {}), **pod.limits}
            pod = Pod({**limited, **(item.default_request or {}), **pod.requests}, limited)
    return pod


def _refused_by_limits(pod: Pod, limits: Sequence[Any]) -> Iterator[str]:
    """Why limit ranges refuse the pod. That it has more containers, Kubeflow's, is left out."""
    for item in limits:
        if item.type not in ("Container", "Pod"):
            continue
        for resource, least in (item.min or {}).items():
            if _amount(pod.requests, resource) < parse_quantity(least):
                yield f"a {item.type} requests at least {least} of {resource}, not {pod.requests.get(resource, 'none')}"
        for resource, most in (item.max or {}).items():
            if resource not in pod.limits and resource in COMPUTE:
                yield f"a {item.type} needs a limit of {resource}"
            elif _amount(pod.limits, resource) > parse_quantity(most):
                yield f"a {item.type} is limited to {most} of {resource}, not {pod.limits[resource]}"
        for resource, ratio in (item.max_limit_request_ratio or {}).items():
            requested = _amount(pod.requests, resource)
            if requested and _amount(pod.limits, resource) / requested > parse_quantity(ratio):
                yield f"a limit of {resource} is at most {ratio} times the request"


def _refused_by_quota(pods: Sequence[Pod], quota: Any) -> Iterator[str]:
    name = quota.metadata.name
    for key, hard in (quota.spec.hard or {}).items():
        kind, resource = _split(key)
        if resource in COMPUTE and any(resource not in getattr(pod, kind) for pod in pods):
            yield f"quota {name} demands {kind} of {resource}, which a LimitRange's default can give"
        elif (need := _need(pods, key)) > parse_quantity(hard):
            yield f"quota {name} has {hard} of {key}, not {need.normalize():f}"


def _room(pods: Sequence[Pod], quotas: Sequence[Any]) -> str:
    """How often the pods fit beside what runs now; `any number` if no quota counts them."""
    rooms = [
        max(0, int((parse_quantity(hard) - parse_quantity((quota.status.used or {}).get(key, "0"))) / need))
        for quota in quotas
        for key, hard in (quota.spec.hard or {}).items()
        if (need := _need(pods, key))
    ]
    return str(min(rooms)) if rooms else "any number"


def _need(pods: Sequence[Pod], key: str) -> Decimal:
    """How much of a quota's key the pods use."""
    if key in ("pods", "count/pods"):
        return Decimal(len(pods))
    kind, resource = _split(key)
    return sum((_amount(getattr(pod, kind), resource) for pod in pods), Decimal(0))


def _split(key: str) -> tuple[str, str]:
    """`requests` or `limits`, and the resource, of a quota's key: cpu is requests.cpu."""
    kind, dot, resource = key.partition(".")
    return (kind, resource) if dot and kind in ("requests", "limits") else ("requests", key)


def _amount(amounts: Amounts, resource: str) -> Decimal:
    return parse_quantity(amounts.get(resource, "0"))
