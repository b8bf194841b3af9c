"""The preflight: against a real MLflow, a real S3 server, and small fakes of Kubeflow's and Kubernetes' APIs."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backdrop.common import s3_client, storage
from backdrop.common.errors import BackdropError, EndpointError, StorageError, TrackingError
from backdrop.config import find_ensemble
from backdrop.config.cluster import Toleration
from backdrop.config.network import MIRROR
from backdrop.kubeflow import preflight
from backdrop.kubeflow.node_check import check_drivers, check_nodes, check_rayjobs, check_retries
from tests.fakes.http import Hook, running
from tests.fakes.kfp import FakeKfp
from tests.fakes.kubernetes import FakeKubernetes, fake_kubernetes

# As Kubeflow Pipelines 2.17 sets Argo up.
KFPS = "spec: {templateDefaults: {retryStrategy: {retryPolicy: OnError}}}"
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SELECTOR = {"nvidia.com/gpu.present": "true"}
CLUSTER = ("nodes", "cpus", "drivers", "quotas", "retries")
NEEDS = {"nvidia.com/gpu": "1", "cpu": "4", "memory": "16Gi"}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mlflow(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    return mlflow_server


@pytest.fixture
def bucket(bucket: str) -> Any:
    """A client of an S3 server with an empty bucket named photos."""
    return s3_client.client()


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with fake_kubernetes(tmp_path / "kubeconfig") as fake:
        yield fake


def put_photo(bucket: Any) -> None:
    bucket.put_object(Bucket="photos", Key="cars/train/car1_01.jpg", Body=b"a photograph")


def test_all_is_well(
    kfp: FakeKfp, host: str, mlflow: str, bucket: Any, kubernetes: FakeKubernetes, params: str, call: Call
) -> None:
    put_photo(bucket)
    kubernetes.add_node("gpu-a", [GPU], gpu="4")
    kubernetes.add_node("cpu-a")["metadata"]["labels"] = {}
    kubernetes.kinds = ["RayCluster", "RayJob"]
    kubernetes.config_maps["kubeflow", "workflow-controller-configmap"] = {"workflowDefaults": KFPS}
    code, out, err = call("preflight", "--params", params, "--ray")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"ok     kubeflow Kubeflow Pipelines 2.17.0 at {host}",
        "ok     mlflow   MLflow answers",
        "ok     data     1 file in s3://photos/cars/train",
        "ok     work     s3://photos/work can be written, read and deleted",
        "ok     nodes    1 of 1 node with the labels nvidia.com/gpu.present=true can offer "
        "1 of nvidia.com/gpu, 4 of cpu, 16Gi of memory",
        "ok     cpus     1 of 2 nodes can offer 500m of cpu, 2Gi of memory",
        "ok     drivers  1 of 2 nodes can offer 100m of cpu, 64Mi of memory",
        "ok     quotas   no quota in namespace mine",
        "ok     retries  Argo tries again pods that are lost; containers that die aren't, so tasks start "
        "their own work again (OnError)",
        "ok     ray      ray.io/v1 RayJob is installed",
    ]
    assert [entry["Key"] for entry in bucket.list_objects_v2(Bucket="photos")["Contents"]] == ["cars/train/car1_01.jpg"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"workflowDefaults": KFPS.replace("OnError", "Always")},
            "pods that are lost and containers that die (Always)",
        ),
        ({}, "Argo tries again containers that die; pods that are lost may not be: start what is lost again with"),
        ({"workflowDefaults": "spec: [1]"}, "(OnFailure)"),
        ({"workflowDefaults": "{"}, "(OnFailure)"),
        (None, "which losses Argo tries again isn't known: Kubernetes at"),
    ],
)
def test_retries(settings: dict[str, str] | None, message: str, kubernetes: FakeKubernetes) -> None:
    if settings is not None:
        kubernetes.config_maps["kubeflow", "workflow-controller-configmap"] = settings
    assert message in check_retries()


def test_nothing_is_well(
    kubernetes: FakeKubernetes, bucket: Any, params: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bucket.delete_bucket(Bucket="photos")
    code, out, err = call("preflight", "--params", params, "--ray")
    lines = out.splitlines()
    assert (code, err) == (1, "")
    assert [line.split()[:2] for line in lines] == [
        *(["FAILED", name] for name in ("kubeflow", "mlflow", "data", "work", "nodes", "cpus")),
        *(["ok", name] for name in ("drivers", "quotas", "retries")),
        ["FAILED", "ray"],
    ]
    assert lines[0].endswith("No Kubeflow endpoint is set. Give --host, or set KF_PIPELINES_ENDPOINT.")
    assert lines[1].endswith("MLFLOW_TRACKING_URI isn't a server's address. Set it to the address that pods use.")
    assert "s3://photos/cars/train: S3 says:" in lines[2]
    assert "S3 says:" in lines[3]
    assert lines[4].endswith(
        "There is no node with the labels nvidia.com/gpu.present=true. Fix node_selector, or add a node to the pool."
    )
    assert lines[-1].endswith("Kubernetes has no ray.io/v1 RayJob. Install the KubeRay operator and its CRDs.")


def test_an_ensemble_that_the_data_cannot_be_split_for(
    host: str, params: str, call: Call, data: Path, tmp_path: Path
) -> None:
    Path(params).write_text(f"data: {data}\n")
    for count, view, message in (
        (3, "02", "ok     split    6 objects can be split by the schemes of ensemble ours"),
        (3, "05", "FAILED split    Object car00 has no photograph of view 05. Name a view that all objects have."),
        (7, "02", "FAILED split    6 objects, 1 of them held out, don't fill 7 folds. Ask for fewer folds."),
    ):
        ensemble = tmp_path / "ours.yaml"
        folds = f'{{count: {count}, by: area_rank, view: "{view}"}}'
        ensemble.write_text(f"name: ours\nfolds: {folds}\nmembers: [{{recipe: tiny}}]\n")
        lines = call("preflight", "--ensemble", str(ensemble), "--params", params)[1].splitlines()
        assert lines[3] == message
    assert [line.split()[1] for line in lines] == [*("kubeflow", "mlflow", "data", "split", "weights"), *CLUSTER]


def test_only_what_a_run_needs_is_looked_at(host: str, params: str, call: Call, data: Path) -> None:
    Path(params).write_text(f"data: {data}\n")
    lines = call("preflight", "--params", params)[1].splitlines()
    assert [line.split()[1] for line in lines] == ["kubeflow", "mlflow", "data", *CLUSTER]
    assert lines[2] == f"ok     data     12 files in {data}/train"


def test_wrong_parameters_are_no_failed_check(params: str, call: Call) -> None:
    Path(params).write_text("data: x\ngpus: 1\n")
    code, out, err = call("preflight", "--params", params)
    assert (code, out) == (2, "")
    assert 'Write gpus: "1"' in err


def test_kubeflow_that_is_healthy_but_takes_no_token(kfp: FakeKfp, host: str) -> None:
    kfp.token = "another"
    with pytest.raises(EndpointError, match="401"):
        preflight.check_kubeflow()


def test_kubeflow_that_does_not_tell_its_version(kfp: FakeKfp, host: str) -> None:
    kfp.health = {"tag_name": "unknown"}
    assert preflight.check_kubeflow() == f"Kubeflow Pipelines (unknown version) at {host}"


def test_mlflow_that_refuses_the_name_it_is_called(mlflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does with a Service's name unless it's told; its /health is green all the same."""
    other = mlflow.replace("127.0.0.1", "127.1")  # the same machine by another name
    assert urllib.request.urlopen(f"{other}/health").status == 200
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    with pytest.raises(TrackingError, match=rf"403.*Add {other[7:]} to the server's --allowed-hosts\.$"):
        preflight.check_mlflow()


def test_data_without_photographs(bucket: Any, tmp_path: Path) -> None:
    for address in ("s3://photos/cars", str(tmp_path)):
        with pytest.raises(BackdropError, match=r"no photographs in train/\. Give the folder or prefix that contains"):
            preflight.check_data(address)
    with pytest.raises(BackdropError, match="is not a folder"):
        preflight.check_data(str(tmp_path / "no"))


@pytest.mark.parametrize(
    ("toleration", "taint", "covered"),
    [
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, GPU, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, GPU, True),
        ({"operator": "Exists"}, GPU, True),
        ({"key": "nvidia.com/gpu", "value": "present"}, GPU, True),
        ({"key": "nvidia.com/gpu", "value": "absent"}, GPU, False),
        ({"key": "nvidia.com/gpu"}, GPU, False),
        ({"key": "nvidia.com/gpu"}, {"key": "nvidia.com/gpu", "effect": "NoSchedule"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, GPU, False),
        ({"key": "team", "operator": "Exists"}, GPU, False),
        ({"key": "team", "operator": "Exists"}, {**GPU, "effect": "PreferNoSchedule"}, True),
    ],
)
def test_taints(toleration: dict[str, str], taint: dict[str, str], covered: bool, kubernetes: FakeKubernetes) -> None:
    kubernetes.add_node("gpu-a", [taint], gpu="1")
    given = [Toleration.model_validate(toleration)]
    if covered:
        assert check_nodes(SELECTOR, NEEDS, given).startswith("1 of 1 node with")
        return
    with pytest.raises(EndpointError, match=r"gpu-a: taint nvidia.com/gpu=present:NoSchedule isn't tolerated"):
        check_nodes(SELECTOR, NEEDS, given)


def test_where_every_node_is_tainted_each_kind_of_pod_needs_a_toleration(kubernetes: FakeKubernetes) -> None:
    kubernetes.add_node("cpu-a", [{"key": "pool", "value": "cpu", "effect": "NoSchedule"}])
    toleration = {"key": "pool", "operator": "Exists"}
    defaults = kubernetes.config_maps["kubeflow", "workflow-controller-configmap"] = {}
    with pytest.raises(EndpointError, match=r"pool=cpu:NoSchedule isn't tolerated\)\. Fix cpu_tolerations, or the"):
        check_nodes({}, {"cpu": "500m"}, [], "cpu_")
    with pytest.raises(EndpointError, match=r"own pods .* fit nowhere: .* tolerated\)\. Fix workflowDefaults\.spec\."):
        check_drivers()
    defaults["workflowDefaults"] = f"spec: {{tolerations: [{json.dumps(toleration)}]}}"
    assert check_drivers() == "1 of 1 node can offer 100m of cpu, 64Mi of memory"
    assert check_nodes({}, {"cpu": "500m"}, [Toleration.model_validate(toleration)], "cpu_").startswith("1 of 1 node")
    kubernetes.config_maps.clear()
    assert check_drivers().startswith("where Kubeflow's own pods run isn't known: Kubernetes at ")


def test_nodes_that_will_not_do(kubernetes: FakeKubernetes) -> None:
    kubernetes.add_node("a")
    kubernetes.add_node("b", gpu="8")["spec"]["unschedulable"] = True
    kubernetes.add_node("c", gpu="1")["status"]["allocatable"]["memory"] = "16000000Ki"
    kubernetes.add_node("d", gpu="1")
    kubernetes.nodes[-1]["metadata"]["labels"] = {"pool": "cpu"}
    with pytest.raises(EndpointError) as caught:
        check_nodes(SELECTOR, NEEDS, [])
    assert str(caught.value) == (
        "The pod fits on none of 3 nodes with the labels nvidia.com/gpu.present=true "
        "(a: it offers 0 of nvidia.com/gpu, not 1; b: it's cordoned; c: it offers 16000000Ki of memory, not 16Gi). "
        "Fix tolerations, gpus, cpu or memory, or the nodes."
    )
    kubernetes.add_node("e", gpu="1")
    assert check_nodes(SELECTOR, NEEDS, []).startswith("1 of 4 nodes")


@pytest.mark.parametrize(("status", "reason"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_kubernetes_that_refuses(status: int, reason: str, kubernetes: FakeKubernetes) -> None:
    kubernetes.refuses = status
    with pytest.raises(EndpointError, match=rf"doesn't allow us to list nodes \({status} {reason}\)\. Grant the"):
        check_nodes(SELECTOR, NEEDS, [])


def test_ray_without_jobs(kubernetes: FakeKubernetes) -> None:
    kubernetes.kinds = ["RayCluster"]
    with pytest.raises(EndpointError, match=r"has no ray\.io/v1 RayJob"):
        check_rayjobs()


def test_no_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EndpointError, match=r"^No Kubernetes cluster is configured here .* Run this in a pod, or set KUBECONFIG\.$"
    ):
        check_rayjobs()
    with fake_kubernetes(tmp_path / "kubeconfig"):
        pass
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(EndpointError, match=r"^Kubernetes at http://127.* doesn't answer"):
        check_rayjobs()


def test_kubernetes_is_asked_by_the_environments_proxy(
    kubernetes: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(text.replace("http://127.0.0.1", "http://kubernetes.example"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{kubernetes.server_port}")
    kubernetes.add_node("cpu-a")
    assert check_nodes({}, {}, []).startswith("1 of 1 node")


def test_pretrained_weights_are_looked_for_where_members_read_them(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, "s3://photos/weights")
    compact = find_ensemble("compact")
    bucket.put_object(Bucket="photos", Key="weights/resnet34-b627a593.pth", Body=b"weights")
    with pytest.raises(StorageError, match=r"^s3://photos/weights/vgg11-8a719046\.pth doesn't exist\. Copy the file"):
        preflight.check_weights(compact)
    bucket.put_object(Bucket="photos", Key="weights/vgg11-8a719046.pth", Body=b"weights")
    assert preflight.check_weights(compact) == "2 files of pretrained weights can be read"
    assert preflight.check_weights(find_ensemble("tiny")) == "no encoder is pretrained"


def test_an_ensemble_has_its_weights_checked_and_a_wrong_one_is_refused(
    kfp: FakeKfp, params: str, kubernetes: FakeKubernetes, bucket: Any, call: Call, mlflow: str
) -> None:
    _, out, _ = call("preflight", "--params", params, "--ensemble", "tiny")
    assert "ok     weights  no encoder is pretrained" in out.splitlines()
    code, out, err = call("preflight", "--params", params, "--ensemble", "tinny")
    assert (code, out) == (2, "")
    assert "tinny" in err


def test_a_url_is_asked_whether_its_file_is_there() -> None:
    with running(Hook()) as server:
        here = f"http://127.0.0.1:{server.server_port}/weights.pth"
        with pytest.raises(StorageError, match="HTTP Error 501"):
            storage.exists(here)
    with pytest.raises(StorageError, match="Connection refused"):
        storage.exists(here)
