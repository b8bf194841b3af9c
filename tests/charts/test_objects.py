"""What the chart makes is accepted by Kubernetes, belongs together, and gets in nobody's way."""

import json
import re
import shutil
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from backdrop import __version__
from backdrop.components.image import IMAGE
from tests.charts.rendering import (
    CASES,
    CHART,
    KUBERNETES,
    ROOT,
    containers,
    helm,
    manifests,
    named,
    pods,
    rendered,
    values_of,
)
from tests.fakes.http import JsonHandler, running

pytestmark = pytest.mark.e2e
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}
SETTINGS = ("ConfigMap", "backdrop")  # the name that the pipeline's tasks look for


def identities(*arguments: str, **about: Any) -> set[tuple[str, str]]:
    return {(m["kind"], m["metadata"]["name"]) for m in manifests(*arguments, **about)}


def hook(manifest: dict[str, Any]) -> dict[str, str]:
    annotations = manifest["metadata"].get("annotations", {})
    return {key.removeprefix("helm.sh/"): value for key, value in annotations.items() if "helm.sh/hook" in key}


class _Cluster(JsonHandler):
    """As much of the Kubernetes API as Helm's `lookup` asks: a namespace with the settings of the release `first`."""

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        kind = {"name": "configmaps", "kind": "ConfigMap", "namespaced": True, "verbs": ["get"]}
        annotations = {"meta.helm.sh/release-name": "first"}
        answers = {
            "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]},
            "/api/v1/namespaces/ml/configmaps/backdrop": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "backdrop", "namespace": "ml", "annotations": annotations},
            },
        }
        answer = answers.get(self.path.partition("?")[0])
        self.reply(200 if answer else 404, answer or {"kind": "Status", "status": "Failure", "code": 404})


@pytest.mark.parametrize("release", ["first", "second"])
def test_a_second_release_in_a_namespace_is_refused_by_what_is_in_its_way(release: str, tmp_path: Path) -> None:
    with running(ThreadingHTTPServer(("127.0.0.1", 0), _Cluster)) as server:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {"token": "t"}}]
        config = {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": users}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
        where = ("--namespace", "ml", "--dry-run=server", "--kubeconfig", str(tmp_path / "kubeconfig"))
        done = helm("template", release, str(CHART), *where, "--disable-openapi-validation")
    refused = "Release first is in namespace ml already, and tasks find their settings there by one name"
    assert (refused in done.stderr) == (release == "second"), done.stderr


@pytest.mark.parametrize("case", CASES)
def test_lint(case: str) -> None:
    done = helm("lint", "--strict", str(CHART), *values_of(case))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str) -> None:
    for manifest in manifests(case):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    service = named("Service", "backdrop-mlflow")
    service["spec"]["selectors"] = service["spec"].pop("selector")
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_port_has_its_protocol(case: str) -> None:
    services = [m for m in manifests(case) if m["kind"] == "Service"]
    ports = [port for service in services for port in service["spec"]["ports"]]
    ports += [port for _, pod in pods(case) for container in containers(pod) for port in container.get("ports", [])]
    assert all(port["protocol"] == "TCP" for port in ports)


@pytest.mark.parametrize("case", CASES)
def test_every_image_has_a_registry_and_a_version(case: str) -> None:
    images = [container["image"] for _, pod in pods(case) for container in containers(pod)]
    assert images or case in ("external-mlflow",)
    for image in images:
        assert re.fullmatch(r"ghcr\.io/[a-z/-]+(:v?[\d.]+(-full)?|@sha256:[0-9a-f]{64})", image)


def test_versions_are_those_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    pinned = re.search(r"^mlflow==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert pinned
    assert values["mlflow"]["image"]["tag"] == f"v{pinned[1]}-full"


def test_artifact_hub_shows_what_is_rendered() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    notes = {key.removeprefix("artifacthub.io/"): yaml.safe_load(text) for key, text in chart["annotations"].items()}
    images = {container["image"] for _, pod in pods("scheduled") for container in containers(pod)}
    assert {entry["image"] for entry in notes["images"]} == {*images, IMAGE}  # the tasks' own, too
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert {entry["kind"] for entry in notes["changes"]} <= kinds
    assert notes["license"] == "Apache-2.0"
    assert chart["maintainers"]
    main = f"{chart['home']}/blob/main/"
    links = [entry["url"] for entry in notes["links"]]
    files = [link.removeprefix(main) for link in links if link.startswith(main)]
    files.append(chart["icon"].partition("/main/")[2])
    assert len(files) == 2
    assert all((ROOT / file).is_file() for file in files)


def test_digest_goes_before_tag() -> None:
    digest = "sha256:" + "a" * 64
    both = f"image.tag=1.2.3,image.digest={digest},image.cpu.tag=1.2.3,image.cpu.digest={digest}"
    options = ("--set", both, "--set", f"mlflow.image.digest={digest}")
    images = set(re.findall(r"image: \"(.+)\"", rendered("scheduled", *options)))
    assert images == {f"ghcr.io/backdrop-ml/backdrop-cpu@{digest}", f"ghcr.io/mlflow/mlflow@{digest}"}
    # What compiles the tasks names both images.
    for name, image in (("BACKDROP_IMAGE", "backdrop"), ("BACKDROP_CPU_IMAGE", "backdrop-cpu")):
        assert f'{{name: {name}, value: "ghcr.io/backdrop-ml/{image}@{digest}"}}' in rendered("scheduled", *options)


@pytest.mark.parametrize("case", CASES)
def test_whatever_a_pod_names_is_there(case: str) -> None:
    made = identities(case)
    for _, pod in pods(case):
        assert case == "shared-account" or ("ServiceAccount", pod["spec"]["serviceAccountName"]) in made
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume and not volume["configMap"].get("optional"):
                assert ("ConfigMap", volume["configMap"]["name"]) in made
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in made
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_labeled(case: str) -> None:
    for manifest in manifests(case, "--set", "extraObjects=null"):
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "backdrop"
        assert labels["app.kubernetes.io/instance"] == "backdrop"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == __version__
        assert labels["app.kubernetes.io/component"]


@pytest.mark.parametrize("case", CASES)
def test_labels_and_annotations_of_yours_are_on_every_object(case: str) -> None:
    """But none takes the place of the chart's own, by which its pods are found."""
    labels, notes = {"cost-center": "a.7", "app.kubernetes.io/name": "ours"}, {"example.com/owner": "ada"}
    given = ("--set-json", f"commonLabels={json.dumps(labels)}", "--set-json", f"commonAnnotations={json.dumps(notes)}")
    before, after = ({(m["kind"], m["metadata"]["name"]): m for m in manifests(case, *more)} for more in ((), given))
    for key, manifest in after.items():
        if key[1] in ("as-object", "as-text"):  # the extra objects
            continue
        spec = manifest.get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        for about in (manifest["metadata"], *([pod["metadata"]] if pod else [])):
            assert about["labels"]["cost-center"] == "a.7"
            assert about["labels"]["app.kubernetes.io/name"] == "backdrop"
            assert about["annotations"]["example.com/owner"] == "ada"
        assert spec.get("selector") == before[key].get("spec", {}).get("selector")


@pytest.mark.parametrize("case", CASES)
def test_two_releases_share_nothing_but_the_settings(case: str) -> None:
    options = ("--set", "fullnameOverride=,extraObjects=null")
    assert identities(case, *options, release="one") & identities(case, *options, release="two") == {SETTINGS}
    assert not any("namespace" in manifest["metadata"] for manifest in manifests(case, release="one"))


def test_releases_of_one_name_in_two_namespaces_share_nothing() -> None:
    here, there = (
        {(kind, name) for kind, name in identities("full", namespace=namespace) if kind in CLUSTER_WIDE}
        for namespace in ("here", "there")
    )
    assert len(here) == 2
    assert not here & there


@pytest.mark.parametrize("release", ["r" * 53, "7" * 53])
def test_a_long_name_is_cut(release: str) -> None:
    """A CronJob's name has at most 52 characters, because its Jobs get 11 more."""
    made = identities("full", "--set", "fullnameOverride=", release=release) - {SETTINGS}
    longest = {kind: max(len(name) for one, name in made if one == kind) for kind, _ in made}
    assert longest.pop("CronJob") == 52
    assert max(length for kind, length in longest.items() if kind not in CLUSTER_WIDE) <= 63


@pytest.mark.parametrize(
    ("release", "prefix"),
    [
        ("my.release.v2", "my-release-v2-backdrop"),
        ("7cars", "backdrop-7cars"),
        ("2026.backdrop", "backdrop-2026-backdrop"),
        ("a" * 42 + "-" * 7 + "b", "a" * 42),
        ("studio", "studio-backdrop"),
    ],
)
def test_a_releases_name_makes_names_that_kubernetes_takes(release: str, prefix: str) -> None:
    made = identities("scheduled", release=release) - {SETTINGS}
    assert all(re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in made)
    assert ("Service", f"{prefix}-mlflow") in made


def test_accounts_of_yours_are_used_and_not_made() -> None:
    found = manifests("shared-account")
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods("shared-account")} == {"default-editor"}
    assert "ServiceAccount" not in {m["kind"] for m in found}
    subjects = [subject for m in found for subject in m.get("subjects", [])]
    assert {subject["name"] for subject in subjects} == {"default-editor"}


def test_an_account_has_the_name_that_you_give_it() -> None:
    named("ServiceAccount", "studio", "scheduled", "--set", "serviceAccount.name=studio")
    named(
        "ServiceAccount",
        "studio-preflight",
        "shared-account",
        "--set",
        "serviceAccount.create=true,serviceAccount.name=studio",
    )


def test_every_pod_is_placed_and_annotated_as_the_values_say() -> None:
    for _, pod in pods("full"):
        spec = pod["spec"]
        assert pod["metadata"]["annotations"]["prometheus.io/scrape"] == "false"
        assert spec["priorityClassName"] == "system"
        assert spec["topologySpreadConstraints"][0]["maxSkew"] == 1
        assert "podAntiAffinity" in spec["affinity"]


def test_without_a_cluster_no_two_jobs_fight() -> None:
    """`helm template | kubectl apply` runs all Jobs at once, and again after the next change."""
    for case in CASES:
        about = {"case": case, "live": False}
        jobs = [m for m in manifests(**about) if m["kind"] == "Job"]
        names = [job["metadata"]["name"].rpartition("-")[2] for job in jobs]
        assert not {"schedule", "unschedule"} <= {*names}
        assert not {"prediction", "unpredict"} <= {*names}
        assert ("schedule" in names) == ("schedule" in {name.rpartition("-")[2] for name, _ in pods(case)})
        assert all(job["spec"]["ttlSecondsAfterFinished"] for job in jobs)
        assert not [m for m in manifests(**about) if m["kind"] == "Pod"]
    assert {name for kind, name in identities("unscheduled", live=False) if kind == "Job"} == {
        "backdrop-unschedule",
        "backdrop-unpredict",
    }


def test_a_job_that_fails_stays_in_a_cluster() -> None:
    jobs = [m for m in manifests("full") if m["kind"] == "Job"]
    assert len(jobs) == 5
    assert not any("ttlSecondsAfterFinished" in job["spec"] for job in jobs)


def test_hooks_come_in_order_and_go() -> None:
    hooks = {m["metadata"]["name"].removeprefix("cutouts-"): hook(m) for m in manifests("full") if hook(m)}
    assert {name: about["hook"] for name, about in hooks.items()} == {
        "preflight": "post-install,post-upgrade",
        "schedule": "post-install,post-upgrade",
        "unschedule": "pre-delete",
        "prediction": "post-install,post-upgrade",
        "unpredict": "pre-delete",
        "test-mlflow": "test",
        "test-status": "test",
    }
    assert int(hooks["preflight"]["hook-weight"]) < int(hooks["schedule"]["hook-weight"])
    for about in hooks.values():
        assert about["hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_a_schedule_that_is_turned_off_is_removed_by_the_upgrade() -> None:
    hooks = {m["metadata"]["name"]: hook(m)["hook"] for m in manifests("unscheduled") if m["kind"] == "Job"}
    assert hooks == {"backdrop-unschedule": "post-upgrade", "backdrop-unpredict": "post-upgrade"}
    # Argo CD knows of no upgrade: it renders as for an installation, and runs what is after an upgrade, too.
    scheduled = {m["metadata"]["name"]: hook(m)["hook"] for m in manifests("scheduled") if hook(m)}
    assert scheduled["backdrop-unpredict"] == "post-upgrade"
    assert scheduled["backdrop-unschedule"] == "pre-delete"
    # Where no Kubeflow is known there was no schedule.
    assert not [m for m in manifests() if m["kind"] == "Job"]


def test_extra_objects_come_as_they_are() -> None:
    assert {("ConfigMap", "as-object"), ("ConfigMap", "as-text")} <= identities("full")


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ("mlflow.database=sqlite", True),
        ("mlflow.database=sqlite,mlflow.artifacts=s3://models", True),
        ("mlflow.database=external,mlflow.existingSecret=mlflow", True),
        ("mlflow.database=external,mlflow.existingSecret=mlflow,mlflow.artifacts=s3://models", False),
        ("mlflow.volume.existingClaim=ours", False),
    ],
)
def test_a_volume_is_made_if_it_is_needed(values: str, volume: bool) -> None:
    claims = [m for m in manifests("defaults", "--set", values) if m["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == volume
    assert all(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for claim in claims)


def test_a_volume_without_a_class() -> None:
    claims = {
        given: named(
            "PersistentVolumeClaim", "backdrop-mlflow", "defaults", "--set", f"mlflow.volume.storageClass={given}"
        )
        for given in ("", "-", "fast")
    }
    classes = {given: claim["spec"].get("storageClassName") for given, claim in claims.items()}
    assert classes == {"": None, "-": "", "fast": "fast"}


def test_a_claim_of_yours_is_mounted() -> None:
    deployment = named("Deployment", "backdrop-mlflow", "defaults", "--set", "mlflow.volume.existingClaim=ours")
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "ours"


def test_as_a_sub_chart(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "charts" / "backdrop")
    dependency = {"name": "backdrop", "version": "0.1.0", "condition": "backdrop.enabled"}
    chart = {"apiVersion": "v2", "name": "studio", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))
    (tmp_path / "values.yaml").write_text("global: {team: studio}\nbackdrop: {enabled: true, mlflow: {port: 5050}}\n")
    service = named("Service", "studio-backdrop-mlflow", chart=tmp_path, release="studio")
    assert service["spec"]["ports"][0]["port"] == 5050
    assert manifests("defaults", "--set", "backdrop.enabled=false", chart=tmp_path, release="studio") == []


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("defaults", ["Nothing is scheduled", "kubectl port-forward -n ml svc/backdrop-mlflow 5000"]),
        ("scheduled", ["trains compact on s3://photos/cars at `0 0 2 * * 0`.", "helm test backdrop -n ml"]),
        ("paused", ["is paused. To resume it:", "--set schedule.paused=false"]),
    ],
)
def test_notes_say_what_to_do_next(case: str, told: list[str]) -> None:
    done = helm("install", "backdrop", str(CHART), "--dry-run=client", "--namespace", "ml", *values_of(case))
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert all(line in notes for line in told)
    assert "kubectl create secret generic backdrop -n ml" in notes
