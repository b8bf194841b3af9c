"""The RayJob, by KubeRay's own schema, Kubernetes' own for pods, and what is promised of it."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from backdrop.common.errors import ConfigError, TuningError
from backdrop.config.cluster import CONFIG_KEYS, NETWORK_KEYS, SECRET_KEYS, Cluster
from backdrop.config.records import parse
from backdrop.tuning.cluster.manifest import SPEC, manifest

COMMAND = ["backdrop", "tune", "s3://photos", "--set", "name=a b"]
PLAIN = Cluster(image="registry.example/backdrop:1")
FULL = Cluster(
    image="registry.example/backdrop@sha256:0",
    namespace="ml",
    workers=3,
    accelerator="amd.com/gpu",
    gpus=2,
    cpu="8",
    memory="64Gi",
    storage="200Gi",
    affinity={"nodeAffinity": {}},
    head_cpu="1",
    head_memory="4Gi",
    head_node_selector={"pool": "small"},
    head_tolerations=[{"key": "small", "operator": "Exists"}],
    labels={"kueue.x-k8s.io/queue-name": "vision"},
    priority_class="batch",
    node_selector={"pool": "big"},
    tolerations=[{"key": "big", "effect": "NoExecute", "tolerationSeconds": 300.0}],  # a run's parameters are floats
    service_account="trainer",
    retries=0,
    deadline_s=3600,
)


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = job["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    return {"head": spec["headGroupSpec"]["template"], "workers": workers["template"]}


def unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Keys that the schema doesn't know, which an API server would drop in silence."""
    if schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema:
        return
    if isinstance(value, dict) and "properties" in schema:
        for key, inner in value.items():
            if key not in schema["properties"]:
                yield f"{path}.{key}"
            else:
                yield from unknown(inner, schema["properties"][key], f"{path}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for index, inner in enumerate(value):
            yield from unknown(inner, schema["items"], f"{path}.{index}")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    if not os.environ.get("BACKDROP_SCHEMAS"):
        pytest.skip("BACKDROP_SCHEMAS names no folder with KubeRay's ray.io_rayjobs.yaml")
    text = (Path(os.environ["BACKDROP_SCHEMAS"]) / "ray.io_rayjobs.yaml").read_text()
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    found: dict[str, Any] = next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.parametrize("cluster", [PLAIN, FULL])
def test_kuberay_knows_all_of_it(cluster: Cluster, schema: dict[str, Any]) -> None:
    job = manifest(cluster, "tune-1", COMMAND)
    jsonschema.validate(job, schema)
    spec = schema["properties"]["spec"]  # metadata is the API server's own
    assert list(unknown(job["spec"], spec, "spec")) == []


def test_a_misspelt_key_would_be_found(schema: dict[str, Any]) -> None:
    job = manifest(PLAIN, "tune-1", COMMAND)
    pods(job)["head"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    path = "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.imagePolicy"
    assert list(unknown(job["spec"], schema["properties"]["spec"], "spec")) == [path]


@pytest.mark.parametrize("cluster", [PLAIN, FULL])
def test_its_pods_are_valid_and_restricted(cluster: Cluster) -> None:
    for name, template in pods(manifest(cluster, "tune-1", COMMAND)).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, "1.36", strict=True)
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert not spec["automountServiceAccountToken"]
        # KubeRay's Services find their pods by these, and take our values for its own.
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & set(template["metadata"]["labels"])


def test_the_head_does_no_work_and_workers_have_the_gpus() -> None:
    job = manifest(FULL, "tune-1", COMMAND)
    spec, (workers,) = job["spec"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    head = pods(job)["head"]["spec"]
    assert head["nodeSelector"] == {"pool": "small"}
    assert head["tolerations"] == [{"key": "small", "operator": "Exists"}]
    assert head["containers"][0]["resources"] == {
        kind: {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "200Gi"} for kind in ("requests", "limits")
    }
    assert pods(manifest(PLAIN, "tune-1", COMMAND))["head"]["spec"]["containers"][0]["resources"] == {
        kind: {"cpu": "2", "memory": "8Gi"} for kind in ("requests", "limits")
    }
    for labeled in (job, *pods(job).values()):
        assert labeled["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vision"
        assert labeled["metadata"]["labels"]["app.kubernetes.io/part-of"] == "backdrop"
    assert [one["spec"]["priorityClassName"] for one in pods(job).values()] == ["batch", "batch"]
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]
    assert workers["rayStartParams"] == {"num-cpus": "8", "num-gpus": "2"}
    pod = workers["template"]["spec"]
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "200Gi"},
        "limits": {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "200Gi", "amd.com/gpu": "2"},
    }
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert "affinity" not in head
    assert pod["nodeSelector"] == {"pool": "big"}
    assert pod["tolerations"] == [{"key": "big", "effect": "NoExecute", "tolerationSeconds": 300}]
    assert pod["serviceAccountName"] == head["serviceAccountName"] == "trainer"
    (_, mount), (_, volume) = pod["containers"][0]["volumeMounts"], pod["volumes"]
    assert mount["mountPath"] == "/dev/shm"
    assert volume == {"name": mount["name"], "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] == 3600
    assert job["metadata"]["namespace"] == "ml"


def test_without_gpus_none_are_asked_for() -> None:
    cluster = PLAIN.model_copy(update={"gpus": 0})
    pod = pods(manifest(cluster, "tune-1", COMMAND))["workers"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "16Gi"}


def test_it_is_the_command_on_a_cluster_of_its_own_with_a_token() -> None:
    spec = manifest(PLAIN, "tune-1", COMMAND)["spec"]
    assert shlex.split(spec["entrypoint"]) == COMMAND
    assert spec["submissionMode"] == "HTTPMode"
    assert spec["shutdownAfterJobFinishes"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "activeDeadlineSeconds" not in spec


def test_settings_come_from_where_the_pipelines_tasks_have_them() -> None:
    for template in pods(manifest(PLAIN, "tune-1", COMMAND)).values():
        variables = {entry["name"]: entry for entry in template["spec"]["containers"][0]["env"]}
        plain = {name: entry["value"] for name, entry in variables.items() if "value" in entry}
        assert plain == {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        for kind, name, keys in (
            ("configMapKeyRef", "backdrop", CONFIG_KEYS),
            ("configMapKeyRef", "backdrop-network", NETWORK_KEYS),
            ("secretKeyRef", "backdrop", SECRET_KEYS),
        ):
            for key in keys:
                assert variables[key]["valueFrom"] == {kind: {"name": name, "key": key, "optional": True}}
        assert set(variables) == {*plain, *CONFIG_KEYS, *NETWORK_KEYS, *SECRET_KEYS}


def test_certificates_are_where_a_task_has_them() -> None:
    for template in pods(manifest(PLAIN, "tune-1", COMMAND)).values():
        mounts = {entry["name"]: entry for entry in template["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["network"] == {"name": "network", "mountPath": "/etc/backdrop/network", "readOnly": True}
        volumes = {entry["name"]: entry for entry in template["spec"]["volumes"]}
        assert volumes["network"]["configMap"] == {"name": "backdrop-network", "optional": True}
        assert set(mounts) == set(volumes)


def test_it_has_the_pipelines_defaults() -> None:
    from backdrop.config import find_ensemble
    from backdrop.pipelines.training import training

    inputs = training(find_ensemble("tiny")).component_spec.inputs
    for name in ("accelerator", "gpus", "cpu", "memory", "node_selector"):
        value = getattr(PLAIN, name)
        assert inputs[name].default == (str(value) if isinstance(value, int) else value)
    pod = pods(manifest(PLAIN, "tune-1", COMMAND))["workers"]["spec"]
    assert inputs["tolerations"].default == pod["tolerations"]
    assert manifest(Cluster(image="i", cpu="300m"), "tune-1", COMMAND)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0][
        "rayStartParams"
    ] == {"num-cpus": "1", "num-gpus": "1"}


def test_its_digest_is_that_of_the_question() -> None:
    def digest(cluster: Cluster, command: list[str]) -> str:
        return str(manifest(cluster, "tune-1", command)["metadata"]["annotations"][SPEC])

    assert digest(PLAIN, COMMAND) == digest(PLAIN.model_copy(), [*COMMAND])
    assert len({digest(PLAIN, COMMAND), digest(FULL, COMMAND), digest(PLAIN, COMMAND[:-1])}) == 3


@pytest.mark.parametrize("name", ["t" * 48, "Tune", "tune_1", "1tune", "tune-", ""])
def test_a_name_that_kuberay_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(TuningError, match=r"can't be a RayJob's name. Use at most 47"):
        manifest(PLAIN, name, COMMAND)


@pytest.mark.parametrize("labels", [{"GPU pool": "a"}, {"pool": "-"}, {"a/b/c": "x"}, {"gpu": True}, {"a": "x" * 64}])
@pytest.mark.parametrize("key", [name for name in Cluster.model_fields if "label" in name or "selector" in name])
def test_labels_that_kubernetes_would_refuse_are_refused(key: str, labels: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^cluster\.yaml: {key}: "):
        parse(Cluster, {"image": "registry.example/backdrop:1", key: labels}, "cluster.yaml")
