"""The real Kubernetes client, before a fake of the API server."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backdrop.common import kubernetes_client
from backdrop.common.errors import EndpointError, TuningError
from backdrop.common.retry import RetryPolicy
from backdrop.config.cluster import Cluster
from backdrop.tuning.cluster import kuberay
from backdrop.tuning.cluster.manifest import manifest
from tests.fakes.http import silent
from tests.fakes.kubernetes import FakeKubernetes, fake_kubernetes, refusal

CLUSTER = Cluster(image="registry.example/backdrop:1")
COMMAND = ["backdrop", "tune", "s3://photos"]
KEY = ("mine", "tune-1")
STARTING = {"jobDeploymentStatus": "Initializing", "rayClusterStatus": {"desiredWorkerReplicas": 2}}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
MESSAGE = "Job entrypoint command failed with exit code 2, last available logs:\nerror: Too hot. Cool it.\nRunning…\n"
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": MESSAGE}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kuberay, "POLL_S", 0.01)
    monkeypatch.setattr(kuberay, "POLICY", RetryPolicy(0.01, 0.01, give_up_s=600.0))
    with fake_kubernetes(tmp_path / "kubeconfig") as server:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield server


def run(cluster: Cluster = CLUSTER) -> None:
    kuberay.run(cluster, "tune-1", COMMAND)


def test_a_rayjob_is_made_and_watched(fake: FakeKubernetes, capsys: pytest.CaptureFixture[str]) -> None:
    fake.statuses = [{}, STARTING, STARTING, RUNNING, DONE]
    run()
    job = fake.jobs[KEY]
    job["metadata"].pop("uid"), job["metadata"].pop("namespace"), job.pop("status")
    assert job == manifest(CLUSTER, "tune-1", COMMAND)
    title = "RayJob tune-1 in namespace mine"
    assert capsys.readouterr().err.splitlines() == [
        f"{title}: waiting for KubeRay's operator",
        f"{title}: Initializing, 0 of 2 workers ready",
        f"{title}: Running, RUNNING",
        f"{title}: Complete, SUCCEEDED",
    ]


def test_the_namespace_may_be_named(fake: FakeKubernetes) -> None:
    fake.statuses = [DONE]
    run(CLUSTER.model_copy(update={"namespace": "other"}))
    assert set(fake.jobs) == {("other", "tune-1")}


def test_in_a_pod_it_is_the_pods_own(fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.statuses = [DONE]
    (tmp_path / "namespace").write_text("pods\n")
    monkeypatch.setattr(kubernetes_client, "POD_NAMESPACE", tmp_path / "namespace")
    run()
    assert set(fake.jobs) == {("pods", "tune-1")}


def test_the_same_question_is_attached_to(fake: FakeKubernetes) -> None:
    fake.statuses = [DONE]
    run()
    run()
    assert fake.calls == ["POST", "GET", "POST", "GET", "GET"]
    assert fake.jobs[KEY]["metadata"]["uid"] == "uid-1"


@pytest.mark.parametrize("status", [RUNNING, DONE])
def test_another_question_of_that_name_is_refused(fake: FakeKubernetes, status: dict[str, Any]) -> None:
    fake.create("mine", manifest(CLUSTER.model_copy(update={"workers": 2}), "tune-1", COMMAND))
    fake.statuses = [status]
    with pytest.raises(TuningError, match=r"^RayJob tune-1 in namespace mine was created for another .*kubectl delete"):
        run()


def test_what_isnt_ours_is_left_alone(fake: FakeKubernetes) -> None:
    fake.create("mine", {"metadata": {"name": "tune-1"}, "status": FAILED})
    with pytest.raises(TuningError, match="was created for another"):
        run()
    assert "DELETE" not in fake.calls


def test_a_failed_cluster_is_created_again(fake: FakeKubernetes) -> None:
    fake.create("mine", manifest(CLUSTER.model_copy(update={"memory": "1Gi"}), "tune-1", COMMAND))
    fake.jobs[KEY]["status"] = FAILED
    fake.linger = 5
    new = threading.Event()

    def operator() -> None:
        if "deletionTimestamp" not in fake.jobs[KEY]["metadata"] and fake.jobs[KEY]["metadata"]["uid"] != "uid-1":
            fake.jobs[KEY]["status"] = DONE
            new.set()

    fake.statuses = [operator]
    run()
    assert new.is_set()
    assert fake.jobs[KEY]["metadata"]["uid"] == "uid-2"
    assert fake.calls.count("DELETE") == 1


def test_a_cluster_that_is_not_deleted_is_reported(fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "POLICY", RetryPolicy(0.01, 0.01, give_up_s=0.1))
    fake.create("mine", manifest(CLUSTER, "tune-1", COMMAND))
    fake.jobs[KEY]["status"] = FAILED
    fake.linger = 10**9
    with pytest.raises(TuningError, match=r"isn't deleted. Check that KubeRay's operator is running"):
        run()


def test_a_failure_is_reported_with_its_cause(fake: FakeKubernetes) -> None:
    fake.statuses = [RUNNING, FAILED]
    with pytest.raises(TuningError, match=r"failed \(AppFailed: error: Too hot. Cool it.\). See `kubectl describe"):
        run()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no head"}, "no head"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "message": "by hand"}, r"\(by hand\)"),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, r"\(DeadlineExceeded: no message\)"),
    ],
)
def test_other_bad_ends(fake: FakeKubernetes, status: dict[str, Any], words: str) -> None:
    fake.statuses = [status]
    with pytest.raises(TuningError, match=words):
        run()


def test_another_try_is_no_failure(fake: FakeKubernetes) -> None:
    fake.statuses = [{**FAILED, "jobDeploymentStatus": "Retrying"}, {}, RUNNING, DONE]
    run()


def test_a_cluster_that_is_gone_is_reported(fake: FakeKubernetes) -> None:
    fake.statuses = [RUNNING, lambda: fake.delete(KEY, {}) and None]
    with pytest.raises(TuningError, match="tune-1 in namespace mine is gone"):
        run()


def interrupted(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_a_canceled_watch_frees_the_nodes(fake: FakeKubernetes, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fake.statuses = [RUNNING, interrupted(signal.SIGTERM), RUNNING]
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert "deletionTimestamp" in fake.jobs[KEY]["metadata"]
    assert "tune-1 in namespace mine is deleted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_so_does_an_interrupted_one(fake: FakeKubernetes) -> None:
    fake.statuses = [RUNNING, interrupted(signal.SIGINT), RUNNING]
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "deletionTimestamp" in fake.jobs[KEY]["metadata"]


def test_a_cluster_that_cannot_be_deleted_is_reported(fake: FakeKubernetes, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        fake.faults = [refusal(403, "Forbidden", "no delete for you")] * 100
        interrupted(signal.SIGTERM)()

    fake.statuses = [interrupt]
    with pytest.raises(SystemExit):
        run()
    shown = capsys.readouterr().err
    assert "can't be deleted and keeps running (no delete for you): run `kubectl delete rayjob tune-1 -n mine`" in shown


def test_an_api_server_that_stumbles_is_waited_for(fake: FakeKubernetes, capsys: pytest.CaptureFixture[str]) -> None:
    busy = refusal(429, "TooManyRequests", "slower, please")
    fake.faults = [None, None, None, None, refusal(503, "ServiceUnavailable", "apiserver not ready"), busy]
    fake.statuses = [RUNNING, lambda: fake.faults.extend([refusal(500, "InternalError", "etcd is away")] * 3), DONE]
    run()
    assert fake.jobs[KEY]["metadata"]["uid"] == "uid-1"
    shown = capsys.readouterr().err
    assert shown.count("Kubernetes doesn't answer") == 2
    assert "etcd is away" in shown


def test_one_that_stays_away_is_an_error(fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "POLICY", RetryPolicy(0.01, 0.01, give_up_s=0.1))
    fake.server_close()
    with pytest.raises(TuningError, match=r"^Kubernetes doesn't answer \(.*\). Run the same command again"):
        run()


def test_one_that_never_answers_is_an_error(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert max(kubernetes_client.TIMEOUT_S) * (1 + kubernetes_client.RETRIES) < 90
    monkeypatch.setattr(kubernetes_client, "TIMEOUT_S", (0.1, 0.1))
    monkeypatch.setattr(kuberay, "POLICY", RetryPolicy(0.01, 0.01, give_up_s=0.5))
    with silent() as port:
        kubeconfig = (tmp_path / "kubeconfig").read_text()
        (tmp_path / "kubeconfig").write_text(kubeconfig.replace(str(fake.server_port), str(port)))
        with pytest.raises(TuningError, match=r"^Kubernetes doesn't answer \(.*timed out"):
            run()
    assert "Kubernetes doesn't answer" in capsys.readouterr().err  # said once, when it begins to wait


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            refusal(403, "Forbidden", 'User "sa" cannot create resource "rayjobs"'),
            r'denies permission \(User "sa" .* Add a Role that allows you to create, get and delete rayjobs of ray',
        ),
        (refusal(401, "Unauthorized", "Unauthorized"), "rejects your credentials"),
        (refusal(404, "NotFound", "the server could not find"), "KubeRay 1.5.1 or newer is installed"),
        (refusal(422, "Invalid", "spec.backoffLimit: Invalid value"), "rejects RayJob tune-1 .* Invalid value"),
    ],
)
def test_refusals_say_what_to_do(fake: FakeKubernetes, answer: tuple[int, dict[str, Any]], words: str) -> None:
    fake.faults = [answer]
    with pytest.raises(TuningError, match=words):
        run()
    assert fake.calls == ["POST"]


def test_without_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(EndpointError, match=r"^No Kubernetes cluster is configured here .* set KUBECONFIG"):
        run()
