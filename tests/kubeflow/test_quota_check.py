"""Quotas and limit ranges, as Kubernetes' API server would judge a run's pods by them."""

from pathlib import Path
from typing import Any

import pytest

from backdrop.common.errors import EndpointError
from backdrop.kubeflow.preflight import pods
from backdrop.kubeflow.quota_check import check_quotas
from tests.fakes.kubernetes import FakeKubernetes, fake_kubernetes

VALUES: dict[str, Any] = {"accelerator": "nvidia.com/gpu", "gpus": "2", "cpu": "8", "memory": "32Gi"}
RAY = VALUES | {"ray_cluster": {"head_cpu": "1", "storage": "100Gi"}, "ray_workers": 3}


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with fake_kubernetes(tmp_path / "kubeconfig") as fake:
        yield fake


def check(ray: bool = False) -> str:
    return check_quotas("ml", pods(RAY if ray else VALUES, ray))


# What one task on the GPU nodes, or one Ray cluster of a head and three workers, takes of each key.
TASK = {
    "pods": "1",
    "count/pods": "1",
    "cpu": "8",
    "requests.cpu": "8000m",
    "limits.cpu": "8",
    "memory": "32Gi",
    "limits.memory": "34359738368",
    "requests.nvidia.com/gpu": "2",
}
CLUSTER = {
    "pods": "4",
    "requests.cpu": "25",
    "limits.memory": "104Gi",
    "requests.nvidia.com/gpu": "6",
    "limits.ephemeral-storage": "400Gi",
}


@pytest.mark.parametrize(("key", "amount"), TASK.items())
def test_a_quota_as_large_as_a_task_is_enough_and_a_smaller_one_is_not(
    key: str, amount: str, kubernetes: FakeKubernetes
) -> None:
    kubernetes.add_quota("team", {key: amount})
    assert "now there is room for 1 of tasks on the GPU nodes" in check()
    kubernetes.bounds = []
    kubernetes.add_quota("team", {key: "0"})
    with pytest.raises(
        EndpointError, match=rf"^Namespace ml refuses tasks on the GPU nodes: quota team has 0 of {key}"
    ):
        check()


@pytest.mark.parametrize(("key", "amount"), CLUSTER.items())
def test_a_ray_cluster_needs_all_its_pods_at_once(key: str, amount: str, kubernetes: FakeKubernetes) -> None:
    if "ephemeral" in key:
        kubernetes.add_limits(type="Container", default={"ephemeral-storage": "1Gi"})
    kubernetes.add_quota("team", {key: amount})
    assert check(ray=True).endswith("1 of Ray clusters")
    number = amount.removesuffix("Gi")
    kubernetes.add_quota("less", {key: amount.replace(number, str(int(number) - 1))})
    with pytest.raises(EndpointError, match="refuses Ray clusters: quota less has"):
        check(ray=True)


def test_what_others_use_only_makes_a_run_wait(kubernetes: FakeKubernetes) -> None:
    kubernetes.add_quota("team", {"requests.cpu": "40", "requests.nvidia.com/gpu": "8"}, {"requests.cpu": "21"})
    kubernetes.add_quota("gpus", {"requests.nvidia.com/gpu": "4"}, {"requests.nvidia.com/gpu": "4"})
    assert check() == "2 quotas in namespace ml; now there is room for 0 of tasks on the GPU nodes, 38 of other tasks"


@pytest.mark.parametrize("kind", ["requests", "limits"])
def test_disk_that_no_task_can_ask_for_needs_a_default(kind: str, kubernetes: FakeKubernetes) -> None:
    kubernetes.add_quota("disk", {f"{kind}.ephemeral-storage": "100Gi"})
    with pytest.raises(EndpointError, match=rf"quota disk demands {kind} of ephemeral-storage, which a LimitRange"):
        check()
    kubernetes.add_limits(
        type="Container", default={"ephemeral-storage": "50Gi"}, defaultRequest={"ephemeral-storage": "10Gi"}
    )
    assert f"room for {10 if kind == 'requests' else 2} of tasks on the GPU nodes" in check()


@pytest.mark.parametrize(
    "more",
    [
        {"scopes": ["BestEffort"]},
        {"scopes": ["Terminating"]},
        {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["low"]}]}},
    ],
)
def test_quotas_of_other_pods_do_not_count(more: dict[str, Any], kubernetes: FakeKubernetes) -> None:
    kubernetes.add_quota("others", {"pods": "0"}, **more)
    assert check() == "no quota in namespace ml"
    kubernetes.add_quota("ours", {"pods": "0"}, scopes=["NotTerminating", "NotBestEffort"])
    with pytest.raises(EndpointError, match="quota ours has 0 of pods, not 1"):
        check()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"max": {"memory": "16Gi"}}, "a Container is limited to 16Gi of memory, not 32Gi"),
        ({"max": {"nvidia.com/gpu": "1"}}, "a Container is limited to 1 of nvidia.com/gpu, not 2"),
        ({"type": "Pod", "max": {"cpu": "4"}}, "a Pod is limited to 4 of cpu, not 8"),
        ({"min": {"cpu": "1"}}, "refuses other tasks: a Container requests at least 1 of cpu, not 500m"),
        ({"max": {"ephemeral-storage": "1Gi"}}, "a Container needs a limit of ephemeral-storage"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, "other tasks: a limit of cpu is at most 2 times the request"),
        ({"max": {"cpu": "8", "memory": "32Gi"}, "maxLimitRequestRatio": {"cpu": "4"}}, ""),
        ({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}, ""),
    ],
)
def test_limit_ranges(item: dict[str, Any], message: str, kubernetes: FakeKubernetes) -> None:
    kubernetes.add_limits(**{"type": "Container", **item})
    if not message:
        assert check() == "no quota in namespace ml"
        return
    with pytest.raises(EndpointError) as caught:
        check()
    assert message in str(caught.value)


def test_without_the_right_to_look_nothing_is_known(kubernetes: FakeKubernetes) -> None:
    kubernetes.bounds = None
    assert "isn't known: Kubernetes at" in check()
    assert "list resourcequotas in namespace ml (403 Forbidden)" in check()
