"""The chart hands the pipeline what the pipeline asks for, under the names that it asks for."""

import re
from typing import Any

import pytest
import yaml
from typer.main import get_command

from backdrop.cli.pipeline import app
from backdrop.components.image import CPU_IMAGE
from backdrop.config import find_ensemble
from backdrop.config.cluster import CONFIG_KEYS, NODE_SELECTOR, SECRET_KEYS, SETTINGS, TOLERATIONS, VOLUME_FOLDER
from backdrop.pipelines.package import build
from tests.charts.rendering import CASES, CHART, containers, manifests, named, pods

pytestmark = pytest.mark.e2e
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]  # it is a group
GPU = {"accelerator", "gpus", "cpu", "memory", "node_selector", "tolerations"}
KINDS = {"STRING": str, "NUMBER_INTEGER": int, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    ensemble = yaml.safe_load((CHART / "values.yaml").read_text())["pipeline"]["ensemble"]
    package = yaml.safe_load_all(build(find_ensemble(ensemble)).dump())
    found: dict[str, Any] = next(package)["root"]["inputDefinitions"]["parameters"]
    return found


def parameters(case: str) -> dict[str, Any]:
    (config,) = (m for m in manifests(case) if "params.yaml" in m.get("data", {}))
    found: dict[str, Any] = yaml.safe_load(config["data"]["params.yaml"])
    return found


def test_defaults_are_the_pipelines(declared: dict[str, Any]) -> None:
    defaults = {name: entry["defaultValue"] for name, entry in declared.items() if "defaultValue" in entry}
    given = parameters("defaults")
    del given["data"]  # a schedule needs one; "name" is the ensemble's
    del defaults["name"]
    assert given == defaults


def test_gpu_nodes_are_the_pipelines(declared: dict[str, Any]) -> None:
    given = parameters("defaults")
    assert given["node_selector"] == NODE_SELECTOR == declared["node_selector"]["defaultValue"]
    assert given["tolerations"] == TOLERATIONS == declared["tolerations"]["defaultValue"]
    assert given.keys() >= GPU


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_is_one_of_the_pipelines_and_of_its_type(case: str, declared: dict[str, Any]) -> None:
    for name, value in parameters(case).items():
        assert type(value) is KINDS[declared[name]["parameterType"]], name


def test_all_parameters_can_be_given(declared: dict[str, Any]) -> None:
    assert parameters("full").keys() == declared.keys()


def test_another_pool() -> None:
    rendered = parameters("gpu-pool")
    assert {name: rendered[name] for name in GPU} == {
        "accelerator": "amd.com/gpu",
        "gpus": "2",
        "cpu": "12",
        "memory": "64Gi",
        "node_selector": {"pool": "training"},
        "tolerations": [
            {"key": "training", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
            {"key": "spot", "operator": "Exists"},
        ],
    }


def test_only_one_template_reads_the_pool() -> None:
    templates = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
    assert [path.name for path in templates if "nodePool" in path.read_text()] == ["_helpers.tpl"]
    assert (CHART / "templates" / "_helpers.tpl").read_text().count(".Values.gpu.nodePool") == 1


@pytest.mark.parametrize("release", ["backdrop", "studio"])
def test_settings_are_where_tasks_look(release: str) -> None:
    settings = named("ConfigMap", SETTINGS, "full", release=release)
    assert set(settings["data"]) == set(CONFIG_KEYS)
    assert set(named("ConfigMap", SETTINGS, release=release)["data"]) < set(CONFIG_KEYS)  # an empty one is left out


def test_an_external_server_is_named() -> None:
    data = named("ConfigMap", SETTINGS, "external-mlflow")["data"]
    assert data["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
    assert data["MLFLOW_EXPERIMENT_NAME"] == "cars"


def test_preflight_and_test_see_what_tasks_see() -> None:
    settings = named("ConfigMap", SETTINGS, "full")["data"]
    for name in ("cutouts-preflight", "cutouts-test-mlflow"):
        env = {entry["name"]: entry for entry in dict(pods("full"))[name]["spec"]["containers"][0]["env"]}
        assert {key: env[key]["value"] for key in CONFIG_KEYS} == settings
        assert all(
            env[key]["valueFrom"]["secretKeyRef"] == {"name": SETTINGS, "key": key, "optional": True}
            for key in SECRET_KEYS
        )


def test_image_is_the_components() -> None:
    image = dict(pods("scheduled"))["backdrop-schedule"]["spec"]["containers"][0]["image"]
    assert image == CPU_IMAGE


@pytest.mark.parametrize("case", CASES)
def test_commands_are_those_of_the_pipelines(case: str) -> None:
    for _, pod in pods(case):
        for container in containers(pod):
            if container["command"][:2] == ["backdrop", "pipeline"]:
                verb, *arguments = container["command"][2:]
                COMMANDS[verb].make_context(verb, arguments)  # raises if it doesn't know one


def test_a_volume_is_mounted_where_tasks_and_preflight_look() -> None:
    options = ("--set", "pipeline.volume=studio,pipeline.data=/mnt/backdrop/photos,preflight.enabled=true")
    schedule, preflight = (
        named("Job", f"backdrop-{name}", "scheduled", *options)["spec"]["template"]["spec"]
        for name in ("schedule", "preflight")
    )
    assert "--volume studio" in " ".join(schedule["containers"][0]["command"])
    assert {"name": "volume", "persistentVolumeClaim": {"claimName": "studio"}} in preflight["volumes"]
    assert {"name": "volume", "mountPath": VOLUME_FOLDER} in preflight["containers"][0]["volumeMounts"]


def test_the_recurring_run_is_named_as_the_release() -> None:
    commands = {name: pod["spec"]["containers"][0]["command"] for name, pod in pods("full")}
    for name in ("cutouts-schedule", "cutouts-unschedule", "cutouts-test-status"):
        assert re.search(r"--name cutouts\b.*--namespace ml\b", " ".join(commands[name]))
    assert "--remove" in commands["cutouts-unschedule"]


def test_paused() -> None:
    for case, paused in (("paused", True), ("scheduled", False)):
        command = dict(pods(case))["backdrop-schedule"]["spec"]["containers"][0]["command"]
        assert ("--paused" in command) == paused
