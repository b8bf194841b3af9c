"""The chart's serving pods: what they run, who reaches them, and how they end."""

from typing import Any

import pytest
from typer.main import get_command

from backdrop.cli.app import app
from tests.charts.rendering import CHART, Manifest, environment, helm, manifests, named

pytestmark = pytest.mark.e2e
NAME = "backdrop-serving"
ON = ("--set", "serving.enabled=true")


def container(*options: str) -> Manifest:
    (only,) = named("Deployment", NAME, "defaults", *ON, *options)["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def test_nothing_is_served_unless_it_is_asked_for() -> None:
    assert not [m for m in manifests() if m["metadata"]["name"] == NAME]


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ((), "models:/compact@champion"),
        (("--set", "pipeline.model=cars"), "models:/cars@champion"),
        (("--set", "serving.model=models:/vans/7"), "models:/vans/7"),
    ],
)
def test_the_champion_of_the_pipeline_is_served(options: tuple[str, ...], model: str) -> None:
    command = container(*options)["command"]
    assert command[:3] == ["backdrop", "serve", model]
    serve: Any = get_command(app).commands["serve"]  # type: ignore[attr-defined]  # it is a group
    context = serve.make_context("serve", command[2:])
    assert (context.params["host"], context.params["port"], context.params["timeout"]) == ("::", 8000, 60.0)


def test_a_model_without_a_name_is_refused() -> None:
    done = helm("template", "x", str(CHART), *ON, "--set", "pipeline.ensemble=/etc/backdrop/ours.yaml")
    assert "nothing names the model" in done.stderr


def test_it_reads_the_registry_as_tasks_do() -> None:
    assert environment(container())["MLFLOW_TRACKING_URI"] == "http://backdrop-mlflow.ml.svc.cluster.local:5000"
    secrets = [one["valueFrom"].get("secretKeyRef", {}) for one in container()["env"] if "valueFrom" in one]
    assert {"name": "backdrop", "key": "AWS_ACCESS_KEY_ID", "optional": True} in secrets
    # A Secret with tokens must be there if it is named: without it everyone would be let in.
    guarded = container("--set", "serving.existingSecret=tokens")["env"]
    (token,) = [one["valueFrom"]["secretKeyRef"] for one in guarded if one["name"] == "BACKDROP_SERVE_TOKEN"]
    assert token == {"name": "tokens", "key": "BACKDROP_SERVE_TOKEN"}


def test_a_pod_ends_only_when_its_requests_have() -> None:
    pod = named("Deployment", NAME, "defaults", *ON, "--set", "serving.timeout=100")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 100 + 5
    deployment = named("Deployment", NAME, "defaults", *ON)["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_probes_ask_what_they_are_for() -> None:
    probes = {key: probe["httpGet"]["path"] for key, probe in container().items() if key.endswith("Probe")}
    assert probes == {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}


def test_either_the_autoscaler_or_the_deployment_counts_pods() -> None:
    scaler = named("HorizontalPodAutoscaler", NAME, "defaults", *ON)["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], scaler["scaleTargetRef"]["name"]) == (2, 6, NAME)
    assert "replicas" not in named("Deployment", NAME, "defaults", *ON)["spec"]
    alone = ("--set", "serving.maxReplicas=2")
    assert named("Deployment", NAME, "defaults", *ON, *alone)["spec"]["replicas"] == 2
    kinds = {m["kind"] for m in manifests("defaults", *ON, *alone)}
    assert "HorizontalPodAutoscaler" not in kinds
    assert "PodDisruptionBudget" in kinds


def test_only_who_is_named_reaches_it_and_it_reaches_only_the_registry() -> None:
    policy = named("NetworkPolicy", "cutouts-serving", "full")["spec"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert ingress["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]
    ports = {port["port"] for rule in policy["egress"] for port in rule.get("ports", [])}
    assert 5000 in ports
    assert 8888 not in ports  # Kubeflow's
