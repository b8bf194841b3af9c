"""The schedule's Jobs as the chart renders them, run here against a Kubeflow endpoint."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from backdrop.config.cluster import NODE_SELECTOR
from tests.charts.rendering import Manifest, manifests, named
from tests.charts.rendering import environment as variables
from tests.fakes.kfp import FakeKfp, serving

pytestmark = pytest.mark.e2e
TOKEN = "of-the-pod"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def kfp() -> FakeKfp:
    """A Kubeflow of many users, which knows the pod's token and asks for the rights of the chart's Role."""
    kfp = FakeKfp(many_users=True)
    kfp.token = TOKEN
    rules = named("Role", "backdrop", "scheduled")["rules"]
    kfp.rights = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    return kfp


@pytest.fixture
def run(kfp: FakeKfp, tmp_path: Path) -> Iterator[Run]:
    """Runs the command of a Job or test with its environment, files and token."""
    (tmp_path / "token").write_text(TOKEN)
    with serving(kfp) as host:

        def run(kind: str, name: str, *options: str) -> "subprocess.CompletedProcess[str]":
            options = ("--set", f"kfp.endpoint={host}", "--set", "pipeline.ensemble=tiny", *options)
            manifest = named(kind, f"backdrop-{name}", "scheduled", *options)
            return subprocess.run(
                command(manifest, *options), env=environment(manifest), capture_output=True, text=True
            )

        def command(manifest: Manifest, *options: str) -> list[str]:
            for file, text in named("ConfigMap", "backdrop-files", "scheduled", *options)["data"].items():
                (tmp_path / file).write_text(text)
            _, *words = container(manifest)["command"]
            return [sys.executable, "-m", "backdrop", *(word.replace("/etc/backdrop", str(tmp_path)) for word in words)]

        def environment(manifest: Manifest) -> dict[str, str]:
            env = variables(container(manifest))
            own = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
            return {**env, **own, "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token")}

        yield run


def container(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    while "containers" not in spec:
        spec = (spec.get("jobTemplate") or spec["template"])["spec"]
    found: Manifest = spec["containers"][0]
    return found


def test_predictions_are_scheduled_too(kfp: FakeKfp, run: Run) -> None:
    places = {"images": "s3://shop/photographs", "out": "s3://shop/cut-outs", "work": "s3://shop/work"}
    given = ",".join(f"prediction.{name}={address}" for name, address in places.items())
    options = ("--set", f"{given},prediction.schedule=0 0 * * * *,prediction.shards=3,prediction.type=webp")
    done = run("Job", "prediction", *options)
    assert "recurring run backdrop-prediction is created: backdrop-prediction" in done.stdout, done.stderr
    (schedule,) = kfp.schedules.values()
    parameters = schedule["runtime_config"]["parameters"]
    wanted = {**places, "model": "models:/tiny@champion", "type": "webp", "crop": -1.0, "node_selector": NODE_SELECTOR}
    assert {name: parameters[name] for name in wanted} == wanted
    assert "recurring run backdrop-prediction is deleted" in run("Job", "unpredict", *options).stdout
    assert not kfp.schedules


def test_the_schedule_comes_changes_and_goes(kfp: FakeKfp, run: Run) -> None:
    done = run("Job", "schedule")
    assert "recurring run backdrop is created" in done.stdout, done.stderr
    (schedule,) = kfp.schedules.values()
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 0"
    parameters = schedule["runtime_config"]["parameters"]
    assert parameters["data"] == "s3://photos/cars"
    assert parameters["node_selector"] == NODE_SELECTOR
    assert run("Pod", "test-status").returncode == 0
    assert run("CronJob", "heal").stdout == "backdrop: has no runs yet\n"

    assert "unchanged" in run("Job", "schedule").stdout
    assert "replaced" in run("Job", "schedule", "--set", "gpu.nodePool.gpus=2,schedule.paused=true").stdout
    (schedule,) = kfp.schedules.values()
    assert schedule["runtime_config"]["parameters"]["gpus"] == "2"
    assert schedule["mode"] == "DISABLE"

    assert "recurring run backdrop is deleted" in run("Job", "unschedule").stdout
    assert not kfp.schedules
    assert run("Job", "unschedule").returncode == 0
    assert run("Pod", "test-status").returncode == 2


def test_a_run_that_lost_pods_is_started_again(kfp: FakeKfp, run: Run) -> None:
    assert run("Job", "schedule").returncode == 0
    (key, schedule), (home, _) = *kfp.schedules.items(), *kfp.experiments.items()
    lost = {**schedule, "state": "FAILED", "recurring_run_id": key, "namespace": "ml", "experiment_id": home}
    lost["run_details"] = {"task_details": [{"task_id": "a", "pod_name": "train-1", "state": "FAILED"}]}
    kfp.add(kfp.runs, "run_id", lost)
    done = run("CronJob", "heal")
    assert "lost pods and has started again" in done.stdout, done.stderr
    assert len(kfp.runs) == 2


def test_its_tasks_run_in_the_charts_image(kfp: FakeKfp, run: Run) -> None:
    assert run("Job", "schedule", "--set", "image.repository=registry.example/backdrop,image.tag=v2").returncode == 0
    (version,) = kfp.versions.values()
    assert "registry.example/backdrop:v2" in yaml.safe_dump(version["pipeline_spec"])


def test_an_ensemble_of_yours(kfp: FakeKfp, run: Run, tmp_path: Path) -> None:
    ours = "name: ours\nfolds: {count: 2}\nmembers: [{recipe: tiny}]\n"
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"pipeline": {"files": {"ours.yaml": ours}}}))
    options = ("--values", str(tmp_path / "values.yaml"), "--set", "pipeline.ensemble=/etc/backdrop/ours.yaml")
    done = run("Job", "schedule", *options)
    assert done.returncode == 0, done.stderr
    assert [pipeline["display_name"] for pipeline in kfp.pipelines.values()] == ["backdrop-ours"]


def test_no_other_job_knows_the_keys() -> None:
    secrets = {
        manifest["metadata"]["name"]
        for manifest in manifests("full")
        if manifest["kind"] in ("Job", "Pod") and "secretKeyRef" in str(container(manifest)["env"])
    }
    assert secrets == {"cutouts-preflight", "cutouts-test-mlflow"}


def test_drift_is_looked_for_with_options_that_exist() -> None:
    values = "drift.schedule=0 6 * * 1,drift.images=s3://shop/week,drift.out=s3://shop/drift,pipeline.model=cars"
    drift = named("CronJob", "backdrop-drift", "scheduled", "--set", values)
    _, *words = container(drift)["command"]
    asked = [sys.executable, "-m", "backdrop", *words, "--help"]  # which comes after all options are understood
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert words[:5] == ["drift", "--reference", "models:/cars@champion", "--current", "s3://shop/week"]
    assert container(drift)["resources"] != container(named("CronJob", "backdrop-heal", "scheduled"))["resources"]
