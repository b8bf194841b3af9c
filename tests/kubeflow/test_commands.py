"""upload, submit, schedule and status, as a user calls them, by the real kfp.Client."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backdrop.config import find_ensemble
from backdrop.kubeflow import client
from backdrop.pipelines.package import build
from tests.fakes.kfp import FakeKfp, Refused, serving

Call = Callable[..., tuple[int, str, str]]
CRON = "0 0 3 * * 0"
ONE = ("tiny", "--folds", "0")


def only(table: dict[str, dict[str, object]]) -> dict[str, object]:
    (entry,) = table.values()
    return entry


def test_upload_is_done_once(kfp: FakeKfp, host: str, call: Call) -> None:
    code, out, err = call("upload", *ONE)
    assert (code, err) == (0, "")
    pipeline, version = only(kfp.pipelines), only(kfp.versions)
    assert pipeline["display_name"] == pipeline["name"] == "backdrop-tiny"
    assert pipeline["description"] == "tiny on three folds"
    assert out == (
        f"pipeline backdrop-tiny is {pipeline['pipeline_id']}\n"
        f"version {version['display_name']} is {version['pipeline_version_id']} (new)\n"
    )
    graph, settings = version["pipeline_spec"]  # type: ignore[misc]  # two documents
    assert f"(version {version['display_name']})" in graph["pipelineInfo"]["description"]
    assert "exec-train" in settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert call("upload", *ONE)[1] == out.replace("(new)", "(unchanged)")
    assert call("upload", *ONE, "--set", "epochs=2")[0] == 0
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 2)


def test_a_killed_upload_resumes(kfp: FakeKfp, host: str, call: Call) -> None:
    def die(_who: str, what: str) -> None:
        if what.startswith("POST"):
            raise Refused(None)

    kfp.after = die  # what was done is done, but nobody heard of it
    assert call("upload", *ONE)[0] == 2
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 0)
    assert call("upload", *ONE)[0] == 2
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 1)
    assert "(unchanged)" in call("upload", *ONE)[1]


def test_somebody_else_uploads_the_same_at_the_same_time(kfp: FakeKfp, host: str, call: Call) -> None:
    version = build(find_ensemble("tiny"), [0]).version

    def quicker(_who: str, what: str) -> None:
        if what == "POST pipelines":
            kfp.add(kfp.pipelines, "pipeline_id", {"display_name": "backdrop-tiny"})
        if what == "POST pipelines/upload_version":
            (pipeline,) = kfp.pipelines
            kfp.add(kfp.versions, "pipeline_version_id", {"display_name": version, "pipeline_id": pipeline})

    kfp.before = quicker
    code, out, _ = call("upload", *ONE)
    assert code == 0
    assert f"version {version} is {only(kfp.versions)['pipeline_version_id']} (unchanged)" in out
    assert len(kfp.pipelines) == 1


def test_submit(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    code, out, err = call("submit", *ONE, "--params", params, "--service-account", "trainer")
    assert (code, err) == (0, "")
    run, version = only(kfp.runs), only(kfp.versions)
    assert f"run {run['run_id']} of backdrop-tiny {version['display_name']} has started\n" in out
    assert f"See {host}/#/runs/details/{run['run_id']}, or run:" in out
    reference = {"pipeline_id": version["pipeline_id"], "pipeline_version_id": version["pipeline_version_id"]}
    assert run["pipeline_version_reference"] == reference
    assert run["runtime_config"] == {"parameters": {"data": "s3://photos/cars", "work": "s3://photos/work"}}
    assert run["service_account"] == "trainer"
    assert str(run["display_name"]).startswith("backdrop-tiny 2")


def test_experiments(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    other = kfp.add(kfp.experiments, "experiment_id", {"display_name": "vision"})
    assert call("submit", *ONE, "--params", params, "--experiment", "vision")[0] == 0
    assert only(kfp.runs)["experiment_id"] == other["experiment_id"]
    code, _, err = call("submit", *ONE, "--params", params, "--experiment", "visoin")
    assert code == 2
    assert err == (
        f"error: Kubeflow at {host} has no experiment visoin. Did you mean vision? "
        f"Or create it: kfp --endpoint {host} experiment create visoin.\n"
    )
    assert len(kfp.runs) == 1


def test_the_default_experiment_is_made_where_there_is_none(params: str, call: Call) -> None:
    kfp = FakeKfp(many_users=True)
    with serving(kfp) as host:
        there = ("--params", params, "--host", host, "--namespace", "ml")
        assert call("submit", *ONE, *there)[0] == 0
        assert call("submit", *ONE, *there)[0] == 0
    experiment = only(kfp.experiments)
    assert (experiment["display_name"], experiment["namespace"]) == ("Default", "ml")
    assert only(kfp.pipelines)["namespace"] == "ml"
    assert len(kfp.runs) == 2


def test_schedule(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    given = ("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    code, out, err = call(*given)
    version = only(kfp.versions)
    assert (code, err) == (0, "")
    assert out == f"recurring run weekly is created: backdrop-tiny {version['display_name']} at {CRON}\n"
    entry = only(kfp.schedules)
    assert entry["pipeline_version_reference"] == {
        "pipeline_id": version["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert str(entry["description"]).startswith(f"Backdrop: backdrop-tiny {version['display_name']}, sha256:")
    assert "is unchanged" in call(*given)[1]
    assert call(*given, "--paused")[1].startswith("recurring run weekly is replaced")
    assert only(kfp.schedules)["mode"] == "DISABLE"
    assert call(*given, "--set", "epochs=3")[1].startswith("recurring run weekly is replaced")
    assert len(kfp.versions) == 2
    assert call("schedule", "--remove", "--name", "weekly")[1] == "recurring run weekly is deleted\n"
    assert call("schedule", "--remove", "--name", "weekly") == (0, "there was no recurring run weekly\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["schedule", "--name", "weekly"], "A recurring run needs ENSEMBLE, --cron and --params"),
        (["schedule", "tiny", "--name", "w", "--cron", "0 3 * * 0", "--params", "x"], "has 5 fields, not 6"),
        (["submit", "tiny", "--params", "/no/such"], "Parameters /no/such can't be read"),
        (["upload", "tiny", "--label", "queue name=a"], "--label queue name=a: 'queue name' isn't a label's key."),
        (["upload", "tiny", "--label", "queue"], "--label queue isn't a label. Write KEY=VALUE"),
        (["upload", "tiny", "--label", "_queue=a"], "--label _queue=a: '_queue' isn't a label's key. Write it as"),
        (["upload", "tiny", "--label", "queue=a b"], "--label queue=a b: queue is 'a b'. A label's value has letters"),
        (["upload", "tinny"], "There is no ensemble tinny. Did you mean tiny?"),
    ],
)
def test_errors_are_reported_before_any_request(
    arguments: list[str], message: str, kfp: FakeKfp, host: str, call: Call
) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")  # a slow machine says before that it is busy
    assert message in err
    assert kfp.calls == []


def test_a_token_that_expires_on_the_way(
    kfp: FakeKfp, host: str, params: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expire(_who: str, what: str) -> None:
        if what.startswith("POST recurringruns"):
            kfp.token = "another"

    kfp.token = "secret-word"
    kfp.before = expire
    monkeypatch.setenv(client.TOKEN, "secret-word")
    code, out, err = call("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "(401)" in err
    assert "secret-word" not in err


def test_links_show_no_credentials(
    kfp: FakeKfp, host: str, params: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (client.HOST, client.UI_HOST):
        monkeypatch.setenv(variable, host.replace("http://", "http://me:se%2Fcret-word@"))
        for command in (("submit", *ONE, "--params", params), ("status",)):
            code, out, err = call(*command)
            assert (code, err) == (0, "")
            assert "cret-word" not in out
            assert (f"See {host}/#/runs/details/" in out) == (command[0] == "submit")


def test_status(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    assert call("status") == (0, "no recurring runs\n", "")
    given = (*ONE, "--params", params)
    for name in ("weekly", "nightly"):
        call("schedule", *given, "--name", name, "--cron", CRON, "--paused")
    kfp.add(kfp.schedules, "recurring_run_id", {"display_name": "somebody else's", "mode": "ENABLE"})
    version = only(kfp.versions)["display_name"]
    assert call("status")[1] == "".join(
        f"{name}: paused, at {CRON}, backdrop-tiny {version}\n  no runs yet\n" for name in ("nightly", "weekly")
    )
    nightly, weekly, _ = sorted(kfp.schedules.values(), key=lambda entry: str(entry["display_name"]))[:3]
    nightly, weekly = (entry["recurring_run_id"] for entry in (nightly, weekly))
    started = [(1, "FAILED", "replaced"), (2, "SUCCEEDED", weekly), (3, "SUCCEEDED", nightly), (4, "RUNNING", None)]
    for day, state, by in started:
        call("submit", *given)
        run = list(kfp.runs.values())[-1]
        run.update(state=state, created_at=f"2026-11-{day:02}T03:00:00Z", recurring_run_id=by)
    call("submit", "demo", "--folds", "0", "--params", params)
    list(kfp.runs.values())[-1].update(created_at="2026-11-05T03:00:00Z")
    other = {**list(kfp.runs.values())[-1], "pipeline_version_reference": None}
    kfp.add(kfp.runs, "run_id", other)
    failed, succeeded, of_nightly, running, demo, _ = kfp.runs
    assert call("status", "--name", "weekly")[1].splitlines()[1:] == [
        f"  2026-11-02 03:00 UTC  SUCCEEDED  {host}/#/runs/details/{succeeded}",
        f"  2026-11-01 03:00 UTC  FAILED     {host}/#/runs/details/{failed}",
    ]
    lines = call("status")[1].splitlines()
    assert f"  2026-11-03 03:00 UTC  SUCCEEDED  {host}/#/runs/details/{of_nightly}" in lines[:3]
    assert lines[-4:] == [
        "backdrop-demo, by hand:",
        f"  2026-11-05 03:00 UTC  PENDING    {host}/#/runs/details/{demo}",
        "backdrop-tiny, by hand:",
        f"  2026-11-04 03:00 UTC  RUNNING    {host}/#/runs/details/{running}",
    ]


def node(name: str, state: str, *children: str) -> dict[str, object]:
    """A task of a run, as Kubeflow lists it: each node of Argo's, named by its pod."""
    pods = [{"pod_name": child} for child in children]
    return {"task_id": f"id-{name}", "display_name": name.rstrip("-0123456789"), "state": state,
            "pod_name": name, "child_tasks": pods}  # fmt: skip


def test_status_names_the_task_that_failed(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    call("submit", *ONE, "--params", params)
    run = only(kfp.runs)
    run["state"] = "FAILED"
    tasks = [
        node("run", "FAILED", "check", "members-tiny"),
        node("check", "SUCCEEDED", "executor-1"),
        node("executor-1", "SUCCEEDED"),
        node("members-tiny", "FAILED", "train-a", "train-b"),
        node("train-a", "FAILED", "executor-2"),
        node("executor-2", "FAILED"),
        node("train-b", "FAILED", "executor-3"),
        {**node("executor-3", "FAILED"), "error": {"code": 2, "message": "Error (exit code 1)"}},
    ]
    run["run_details"] = {"task_details": tasks}
    log = "Got executor_input\nerror: an earlier one\nepoch 1/2\nerror: Loss is NaN at step 5\nfix: Lower lr\n"
    kfp.logs[str(run["run_id"]), "executor-system-container-impl-2"] = log
    lines = call("status")[1].splitlines()
    assert lines[-2:] == [
        "    members-tiny/train-a: Loss is NaN at step 5. Lower lr.",
        "    members-tiny/train-b: Error (exit code 1)",
    ]
    run["run_details"] = None
    assert "FAILED" in call("status")[1].splitlines()[-1]


def test_heal(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    call("submit", *ONE, "--params", params, "--service-account", "trainer")
    lost = only(kfp.runs)
    for state in ("PENDING", "RUNNING", "SUCCEEDED"):
        lost["state"] = state
        code, _, err = call("heal", str(lost["run_id"]))
        assert (code, len(kfp.runs)) == (2, 1)
        assert f"Run {lost['run_id']} is {state}. Wait for its end" in err
    lost["state"] = "FAILED"
    code, out, err = call("heal", str(lost["run_id"]))
    assert (code, err) == (0, "")
    again = list(kfp.runs.values())[-1]
    assert f"run {lost['run_id']} has started again as {again['run_id']}\n" in out
    for key in ("display_name", "experiment_id", "pipeline_version_reference", "runtime_config", "service_account"):
        assert again[key] == lost[key]
    code, _, err = call("heal", str(lost["run_id"]))
    assert (code, len(kfp.runs)) == (2, 2)
    assert f"has been started again as {again['run_id']}, which is PENDING. Wait for its end." in err
    again["state"] = "FAILED"
    assert call("heal", str(again["run_id"]))[0] == 0


def test_heal_refuses_what_it_cannot_start(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    assert "has no run nowhere. Take its id from `backdrop pipeline status`." in call("heal", "nowhere")[2]
    call("submit", *ONE, "--params", params)
    run = only(kfp.runs)
    run.update(state="FAILED", pipeline_version_reference=None)
    assert "has no pipeline version to run again" in call("heal", str(run["run_id"]))[2]


def fail(kfp: FakeKfp, run: dict[str, Any], error: str = "") -> None:
    """Ends a run with a failed task; without an error of its own, its pod was lost."""
    run.update(state="FAILED", run_details={"task_details": [node("train-1", "FAILED")]})
    if error:
        kfp.logs[str(run["run_id"]), "train-1"] = f"epoch 1/2\nerror: {error}\nfix: Lower lr\n"


def test_a_schedules_lost_run_is_healed_twice(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    call("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    assert call("heal", "--name", "weekly")[1] == "weekly: has no runs yet\n"
    call("submit", *ONE, "--params", params)
    run = only(kfp.runs)
    run.update(state="RUNNING", recurring_run_id=next(iter(kfp.schedules)), created_at="2026-11-01T03:00:00Z")
    assert call("heal", "--name", "weekly")[1] == f"weekly: run {run['run_id']} is RUNNING\n"
    for starts in (2, 3):
        fail(kfp, run)
        code, out, _ = call("heal", "--name", "weekly")
        again = list(kfp.runs.values())[-1]
        assert (code, len(kfp.runs)) == (0, starts)
        assert out == f"weekly: run {run['run_id']} lost pods and has started again as {again['run_id']}\n"
        assert again["display_name"] == run["display_name"]
        assert call("heal", "--name", "weekly")[1] == f"weekly: run {again['run_id']} is PENDING\n"
        run = again
        run["created_at"] = f"2026-11-0{starts}T03:00:00Z"
    fail(kfp, run)
    assert call("heal", "--name", "weekly")[1] == f"weekly: run {run['run_id']} was the last of 3 starts\n"
    assert len(kfp.runs) == 3


def fail_weekly(kfp: FakeKfp, params: str, call: Call) -> dict[str, Any]:
    """A schedule's only run, which failed by an error of its own."""
    call("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    call("submit", *ONE, "--params", params)
    run = only(kfp.runs)
    run["recurring_run_id"] = next(iter(kfp.schedules))
    fail(kfp, run, "Loss is NaN at step 5")
    return run


def test_a_schedules_run_with_an_error_of_its_own_is_left(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    fail_weekly(kfp, params, call)
    code, out, _ = call("heal", "--name", "weekly")
    assert (code, len(kfp.runs)) == (0, 1)
    assert "has an error that another start won't change: train: Loss is NaN at step 5. Lower lr." in out
    assert "Give one of RUN and --name" in call("heal")[2]


def test_a_run_whose_logs_are_denied_is_left(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    """Newer versions of Kubeflow ask for a right of their own. The error may be in the log."""
    run = fail_weekly(kfp, params, call)
    listed = {(resource, "list") for resource in ("runs", "jobs", "pipelines")}
    kfp.rights = {*listed, ("runs", "get"), ("runs", "create"), ("pipelines", "get")}
    code, _, err = call("heal", "--name", "weekly")
    assert (code, len(kfp.runs)) == (2, 1)
    assert f"denies the logs of run {run['run_id']}, so its failure may be its own. Allow this account" in err
    code, out, _ = call("status", "--name", "weekly")
    assert (code, out.splitlines()[-1]) == (0, "    train: see its log")


def test_status_of_a_version_that_is_gone(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    call("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    gone, _ = kfp.versions.popitem()
    assert f"weekly: on, at {CRON}, version {gone}, which has been deleted: every run will fail\n" in call("status")[1]


def test_status_of_none(kfp: FakeKfp, host: str, params: str, call: Call) -> None:
    missing = call("status", "--name", "weekly")[2]
    assert f"Backdrop has no recurring run weekly on Kubeflow at {host}. Create it with" in missing
    call("schedule", *ONE, "--name", "weekly", "--cron", CRON, "--params", params)
    assert call("status", "--name", "weakly")[2].endswith(f"Kubeflow at {host}. Did you mean weekly?\n")


def test_a_package_that_would_not_run_is_not_written(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "BACKDROP_IMAGE": "backdrop:latest"}
    command = [sys.executable, "-m", "backdrop", "pipeline", "compile", "tiny", "-o", str(tmp_path / "package.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has the image backdrop:latest without a registry" in done.stderr
    assert list(tmp_path.iterdir()) == []
