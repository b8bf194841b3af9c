"""Every pod, hooks and tests included, is of Pod Security's level `restricted`, and has no right that it doesn't use.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from backdrop.config.cluster import NETWORK, NETWORK_FOLDER, NETWORK_KEYS, Cluster
from backdrop.tuning.cluster.manifest import manifest
from tests.charts.rendering import CASES, CHART, Manifest, containers, manifests, named, pods, rendered

pytestmark = pytest.mark.e2e
KUBEFLOWS = {"pipelines.kubeflow.org/v2_component": "true"}  # on the pods of a run
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected"}
AMOUNTS = {"cpu", "memory", "ephemeral-storage"}  # a quota may demand requests and limits of each


def disk(spec: Manifest) -> dict[str, Any]:
    """The volume at /tmp."""
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "tmp")
    found: dict[str, Any] = volume["emptyDir"]
    return found


def violations(pod: Manifest, assigned: tuple[int | None, ...] = (1000, 1000)) -> Iterator[str]:
    """What `restricted` forbids, and what this project asks for beyond it; `assigned` are the user and the group."""
    spec = pod["spec"]
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host"
    if any(not set(volume) - {"name"} <= VOLUMES for volume in spec["volumes"]):
        yield "volume"
    if spec.get("enableServiceLinks") is not False:
        yield "service links"  # a Service named mlflow would set MLFLOW_PORT
    for container in containers(pod):
        context = container.get("securityContext", {})
        user = {**spec.get("securityContext", {}), **context}
        if assigned != (user.get("runAsUser"), user.get("runAsGroup")):
            yield "user"
        for level in (spec.get("securityContext", {}), context):
            if level.get("runAsNonRoot") is not True:
                yield "user"
            if level.get("seccompProfile") != {"type": "RuntimeDefault"}:
                yield "seccomp"
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield "privileges"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield "capabilities"
        if context.get("readOnlyRootFilesystem") is not True:
            yield "writable root"
        if {"name": "HOME", "value": "/tmp"} not in container["env"]:
            yield "home"
        if {"name": "tmp", "mountPath": "/tmp"} not in container["volumeMounts"]:
            yield "tmp"
        if any(set(container["resources"].get(kind, {})) != AMOUNTS for kind in ("requests", "limits")):
            yield "resources"
        if disk(spec).get("sizeLimit") != container["resources"]["limits"].get("ephemeral-storage"):
            yield "disk"  # it would be evicted before the volume is full


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    assigned = (None, None) if case == "openshift" else (1000, 1000)  # there the cluster does it
    assert {name: found for name, pod in pods(case) if (found := list(violations(pod, assigned)))} == {}


def test_openshift_assigns_users_and_groups() -> None:
    assert not re.search("runAsUser|runAsGroup|fsGroup:", rendered("openshift"))


def forget(*path: Any) -> Callable[[Manifest], None]:
    def change(pod: Manifest) -> None:
        at = pod["spec"]
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (forget("enableServiceLinks"), "service links"),
        (forget("securityContext", "runAsNonRoot"), "user"),
        (forget("containers", 0, "securityContext", "seccompProfile"), "seccomp"),
        (forget("securityContext", "runAsUser"), "user"),
        (forget("containers", 0, "securityContext", "allowPrivilegeEscalation"), "privileges"),
        (forget("containers", 0, "securityContext", "capabilities"), "capabilities"),
        (forget("initContainers", 0, "securityContext", "readOnlyRootFilesystem"), "writable root"),
        (forget("containers", 0, "resources", "limits", "cpu"), "resources"),
        (forget("initContainers", 0, "resources", "requests", "ephemeral-storage"), "resources"),
        (lambda pod: disk(pod["spec"]).update(sizeLimit="1Ti"), "disk"),
        (forget("containers", 0, "volumeMounts", 0), "tmp"),
        (lambda pod: pod["spec"]["volumes"].append({"name": "node", "hostPath": {"path": "/"}}), "volume"),
        (lambda pod: pod["spec"].update(hostNetwork=True), "host"),
    ],
)
def test_what_is_forgotten_is_found(change: Callable[[Manifest], None], found: str) -> None:
    pod = copy.deepcopy(dict(pods("full"))["cutouts-mlflow"])
    assert list(violations(pod)) == []
    change(pod)
    assert found in set(violations(pod))


@pytest.mark.parametrize("case", CASES)
def test_only_the_preflight_may_call_kubernetes(case: str) -> None:
    may = {name for name, pod in pods(case) if pod["spec"]["automountServiceAccountToken"]}
    assert all(name.endswith("-preflight") for name in may)
    accounts = [manifest for manifest in manifests(case) if manifest["kind"] == "ServiceAccount"]
    assert accounts or case == "shared-account"
    assert not any(account["automountServiceAccountToken"] for account in accounts)


def test_rights_are_few() -> None:
    rules = {m["metadata"]["name"]: m["rules"] for m in manifests("full") if m["kind"] in ("Role", "ClusterRole")}
    everything = [rule for of_role in rules.values() for rule in of_role]
    assert not any("*" in rule[key] for rule in everything for key in ("apiGroups", "resources", "verbs"))
    argo = {"resources": ["configmaps"], "resourceNames": ["workflow-controller-configmap"], "verbs": ["get"]}
    assert rules["ml-cutouts-preflight"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
        {"apiGroups": [""], **argo},
    ]
    kubeflows, quotas = rules["cutouts-preflight"]
    assert quotas == {"apiGroups": [""], "resources": ["resourcequotas", "limitranges"], "verbs": ["list"]}
    assert {rule["apiGroups"][0] for rule in [kubeflows, *rules["cutouts"]]} == {"pipelines.kubeflow.org"}


def test_the_cluster_role_can_be_left_out() -> None:
    kinds = {m["kind"] for m in manifests("full", "--set", "preflight.clusterRole=false")}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}


def test_token_for_kubeflow_is_for_kubeflow_alone() -> None:
    containers = dict(pods("full"))
    for name in ("cutouts-schedule", "cutouts-unschedule", "cutouts-preflight", "cutouts-test-status"):
        spec = containers[name]["spec"]
        (token,) = (volume for volume in spec["volumes"] if volume["name"] == "kfp-token")
        (source,) = token["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
        (mount,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "kfp-token")
        env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
        path = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
        assert env["KF_PIPELINES_SA_TOKEN_PATH"] == path


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_only_referred_to(case: str) -> None:
    for _, pod in pods(case):
        for entry in (entry for container in containers(pod) for entry in container["env"]):
            secret = any(word in entry["name"] for word in ("PASSWORD", "SECRET", "ACCESS_KEY", "SESSION"))
            assert not secret or "secretKeyRef" in entry["valueFrom"], entry["name"]
    assert "Secret" not in {manifest["kind"] for manifest in manifests(case)}


def test_the_database_is_known_from_the_secret() -> None:
    for container in containers(dict(pods("postgres"))["backdrop-mlflow"]):
        env = {entry["name"]: entry for entry in container["env"]}
        reference = {"secretKeyRef": {"name": "mlflow", "key": "MLFLOW_BACKEND_STORE_URI"}}
        assert env["MLFLOW_BACKEND_STORE_URI"]["valueFrom"] == reference


def chosen(policy: Manifest, labels: dict[str, str]) -> bool:
    """Whether a policy is one for a pod with these labels."""
    selector = policy["spec"]["podSelector"]
    same = all(labels.get(key) == value for key, value in selector["matchLabels"].items())
    return same and all(labels[rule["key"]] in rule["values"] for rule in selector.get("matchExpressions", []))


@pytest.mark.parametrize("case", CASES)
def test_no_pod_talks_to_whom_it_likes(case: str) -> None:
    policies = [manifest for manifest in manifests(case) if manifest["kind"] == "NetworkPolicy"]
    for name, pod in pods(case):
        mine = [policy["spec"] for policy in policies if chosen(policy, pod["metadata"]["labels"])]
        assert any(set(spec["policyTypes"]) == {"Ingress", "Egress"} and len(spec) == 2 for spec in mine), name
        allowed = [port["port"] for spec in mine for rule in spec.get("egress", []) for port in rule.get("ports", ())]
        assert 53 in allowed
        assert (6443 in allowed) == name.endswith("-preflight")
        job = pod["metadata"]["labels"]["app.kubernetes.io/component"] not in ("mlflow", "serving")
        assert (8888 in allowed) == (job and "ml-pipeline" in rendered(case))


@pytest.mark.parametrize(
    ("url", "port", "namespace"),
    [
        ("http://minio.minio.svc:9000", 9000, "minio"),
        ("http://minio-0.minio.store.svc.cluster.local.:9000", 9000, "store"),
        ("https://minio.tenant.svc", None, "tenant"),  # its pods listen on another port
        ("http://minio:9000", 9000, ""),  # a Service of this namespace
        ("http://minio.store:9000", 9000, None),
        ("https://s3.eu.example", 443, None),
        ("http://s3.svc.example:9000/path", 9000, None),
        ("http://10.0.0.7", 80, None),
        ("http://[fd00::7]:9000", 9000, None),
    ],
)
@pytest.mark.parametrize(
    ("key", "policies"), [("kfp.endpoint", ["jobs"]), ("s3.endpoint", ["jobs", "mlflow"]), ("tracking.uri", ["jobs"])]
)
def test_policies_follow_the_addresses(
    key: str, policies: list[str], url: str, port: int | None, namespace: str | None
) -> None:
    case = "external-mlflow" if key == "tracking.uri" else "defaults"
    service = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    wanted: dict[str, Any] = {} if namespace is None else {"to": [service if namespace else {"podSelector": {}}]}
    wanted |= {"ports": [{"protocol": "TCP", "port": port}]} if port else {}
    for policy in policies:
        before, after = (
            named("NetworkPolicy", f"backdrop-{policy}", case, *only, "--set", f"{key}={address}")["spec"]["egress"]
            for only in [("--set-json", "networkPolicy.outside=[]")]
            for address in ("http://elsewhere.example:1", url)
        )
        assert [rule for rule in after if rule not in before] == [wanted]


@pytest.mark.parametrize(
    ("url", "port"), [("http://minio.store", 80), ("https://minio.store/", 443), ("http://Minio.Store:80", 80)]
)
def test_a_name_of_two_parts_may_be_a_service_or_not(url: str, port: int) -> None:
    """A Service of another namespace, whose pods listen on another port than 80 or 443, or a server outside."""
    outside = ("--set-json", "networkPolicy.outside=[]")
    for policy in ("backdrop-jobs", "backdrop-mlflow"):
        egress = named("NetworkPolicy", policy, "defaults", *outside, "--set", f"s3.endpoint={url}")["spec"]["egress"]
        assert {"ports": [{"protocol": "TCP", "port": port}]} in egress
        assert {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "store"}}}]} in egress


@pytest.mark.parametrize("key", ["mlflowFrom", "servingFrom"])
@pytest.mark.parametrize("peers", ["[]", "null"])
def test_an_empty_list_of_callers_is_nobody(key: str, peers: str) -> None:
    """In a rule of Kubernetes an empty `from` is everybody."""
    name = f"cutouts-{key.removesuffix('From')}"
    policy = named("NetworkPolicy", name, "full", "--set-json", f"networkPolicy.{key}={peers}")
    assert policy["spec"]["ingress"] == []


def test_no_pod_starts_more_threads_than_its_limit_has_cores() -> None:
    limit = {"resourceFieldRef": {"resource": "limits.cpu"}}
    for name, pod in pods("full"):
        for container in containers(pod) if not name.endswith("-mlflow") else ():
            assert {"name": "OMP_NUM_THREADS", "valueFrom": limit} in container["env"], name


def test_dns_is_kubernetes_and_openshifts() -> None:
    first, second, *_ = named("NetworkPolicy", "backdrop-mlflow")["spec"]["egress"]
    for rule, namespace, port in ((first, "kube-system", 53), (second, "openshift-dns", 5353)):
        assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
        assert rule["ports"] == [{"protocol": protocol, "port": port} for protocol in ("UDP", "TCP")]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_has_the_companys_network(case: str) -> None:
    """The same ConfigMap, keys and folder as the pipeline's tasks."""
    for _, pod in pods(case):
        (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "network")
        assert volume["configMap"] == {"name": NETWORK, "optional": True}
        for container in containers(pod):
            variables = {entry["name"]: entry for entry in container["env"]}
            for key in NETWORK_KEYS:
                entry = variables["NETWORK_NO_PROXY" if key == "NO_PROXY" else key]
                assert entry["valueFrom"]["configMapKeyRef"] == {"name": NETWORK, "key": key, "optional": True}
            hosts = variables["NO_PROXY"]["value"].split(",")
            assert {"localhost", "127.0.0.1", "::1", ".svc", ".svc.cluster.local", "$(NETWORK_NO_PROXY)"} == {*hosts}
            mount = {"name": "network", "mountPath": NETWORK_FOLDER, "readOnly": True}
            assert mount in container["volumeMounts"]


def test_a_policy_is_not_for_pods_of_the_pipeline() -> None:
    policies = [manifest for manifest in manifests("scheduled") if manifest["kind"] == "NetworkPolicy"]
    assert not any(chosen(policy, {"pipeline/runid": "1", **KUBEFLOWS}) for policy in policies)


def test_tasks_reach_what_they_need_where_the_namespace_denies_by_default() -> None:
    policy = named("NetworkPolicy", "cutouts-tasks", "full")
    assert chosen(policy, KUBEFLOWS)
    assert not any(chosen(policy, pod["metadata"]["labels"]) for _, pod in pods("full"))
    assert policy["spec"]["policyTypes"] == ["Egress"]
    egress = policy["spec"]["egress"]
    for key in ("dns", "outside", "kubernetes", "kubeflow"):
        values = yaml.safe_load((CHART / "ci" / "full-values.yaml").read_text())["networkPolicy"]
        rules = values.get(key) or yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"][key]
        assert all(rule in egress for rule in rules), key
    work = named("NetworkPolicy", "cutouts-jobs", "full")["spec"]["egress"]
    assert egress[: len(work)] == work
    nothing = [part for key in ("kubernetes", "kubeflow") for part in ("--set-json", f"networkPolicy.{key}=[]")]
    assert named("NetworkPolicy", "cutouts-tasks", "full", *nothing)["spec"]["egress"] == work


def test_the_pods_of_a_ray_cluster_reach_each_other_and_the_operator_reaches_them() -> None:
    job = manifest(Cluster(image="x"), "tune-1", ["true"])["spec"]["rayClusterSpec"]
    policy = named("NetworkPolicy", "cutouts-ray", "full")
    (workers,) = job["workerGroupSpecs"]
    for group in (job["headGroupSpec"], workers):
        assert chosen(policy, group["template"]["metadata"]["labels"])
    assert not any(chosen(policy, pod["metadata"]["labels"]) for _, pod in pods("full"))
    own = {"podSelector": policy["spec"]["podSelector"]}
    within, operator = policy["spec"]["ingress"]
    assert within == {"from": [own]}
    assert {"to": [own]} in policy["spec"]["egress"]
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    without = manifests("full", "--set", "tuning.ray=false")
    assert not any(m["metadata"]["name"] == "cutouts-ray" for m in without)


def test_jobs_reach_mlflow_where_it_listens() -> None:
    policy = named("NetworkPolicy", "backdrop-jobs", "scheduled")
    peer = policy["spec"]["egress"][-1]
    labels = dict(pods("scheduled"))["backdrop-mlflow"]["metadata"]["labels"]
    assert peer["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert peer["ports"] == [{"protocol": "TCP", "port": 5000}]
