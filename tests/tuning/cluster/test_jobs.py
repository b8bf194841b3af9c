"""A real Ray head on this machine, with ports, a home and a token of its own."""

import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from backdrop.common.errors import TuningError
from backdrop.common.retry import RetryPolicy
from backdrop.config import Budget
from backdrop.steps.tune import tune
from backdrop.tuning.cluster import jobs
from tests.fakes.http import free_ports, silent
from tests.fakes.proxy import wire_to
from tests.tuning.machine import ray_folder, until

# Ray's own client does it.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

SECRET = secrets.token_hex(32)
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    while True:
        with ray_folder() as folder, head(folder) as dashboard:
            if dashboard:
                yield dashboard
                return
        # Ray gives its own processes half a minute, whatever the machine has to do.


@contextmanager
def head(folder: Path) -> Iterator[str | None]:
    """Its dashboard's address; None if it was too slow for itself."""
    gcs, dashboard, agent = free_ports(3)
    own = {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET, "RAY_USAGE_STATS_ENABLED": "0"}
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | own
    command = [RAY, "start", "--head", "--block", f"--port={gcs}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def answer() -> str | None:
        if process.poll() is not None:
            assert "timed out during startup" in log.read_text(), log.read_text()
            return "too slow"
        with suppress(ConnectionError, RuntimeError):
            ask(f"http://127.0.0.1:{dashboard}")
            return f"http://127.0.0.1:{dashboard}"
        return None

    try:
        answered = until(answer)
        yield None if answered == "too slow" else answered
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)


def ask(address: str) -> JobSubmissionClient:
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {SECRET}"})


@pytest.mark.thorough
def test_a_job_is_run_once(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"echo x >> {ran}; echo said", "a word's apostrophe"]
    jobs.run(address, "once", command)
    shown = capsys.readouterr()
    assert "said\n" in shown.err
    assert shown.out == ""
    jobs.run(address, "once", command)
    assert capsys.readouterr().err == f"Ray job once at {address} has already succeeded\n"
    jobs._submit(ask(address), "once", command)  # as one who didn't know yet
    assert ran.read_text() == "x\n"
    (job,) = ask(address).list_jobs()
    assert job.runtime_env == {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}}
    assert not list(tmp_path.glob(".ray*"))


@pytest.mark.slow
def test_a_failed_job_is_run_again_beside_its_remains(address: str, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    command = ["sh", "-c", f"test -e {flag} || {{ echo 'error: No flag. Raise one.' >&2; sleep 2; exit 2; }}"]
    with pytest.raises(TuningError, match=r"^Ray job again at .* failed \(error: No flag. Raise one.\). Read its log"):
        jobs.run(address, "again", command)
    flag.touch()
    jobs.run(address, "again", command)
    known = {job.submission_id: str(job.status) for job in ask(address).list_jobs()}
    assert known["again"] == "FAILED"
    assert known["again-2"] == "SUCCEEDED"


@pytest.mark.slow
def test_a_running_job_is_followed(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go, ran = tmp_path / "go", tmp_path / "ran"
    command = ["sh", "-c", f"echo x >> {ran}; echo begun; until test -e {go}; do sleep 0.1; done; echo ended"]
    client = ask(address)
    client.submit_job(entrypoint=" ".join(command[:2]) + f" '{command[2]}'", submission_id="shared")
    until(ran.exists)
    uploader = threading.Thread(target=jobs.run, args=(address, "shared", command))
    uploader.start()
    time.sleep(3)
    assert uploader.is_alive()
    go.touch()
    uploader.join()
    assert ran.read_text() == "x\n"
    shown = capsys.readouterr().err
    assert shown.count("begun") == shown.count("ended") == 2  # the command, and its word


@pytest.mark.slow
def test_a_stopped_job_is_an_error(address: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    client = ask(address)
    client.submit_job(entrypoint=f"touch {ran}; sleep 600", submission_id="halted")
    until(ran.exists)
    threading.Timer(3, client.stop_job, ["halted"]).start()
    with pytest.raises(TuningError, match=r"^Ray job halted at .* was stopped"):
        jobs.run(address, "halted", ["true"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "deaden"])
def test_the_log_is_shown_whole_and_once_though_the_line_fails(
    address: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 15.0)
    monkeypatch.setattr(jobs, "POLICY", RetryPolicy(0.5, 0.5, give_up_s=600.0))
    go, shown = tmp_path / "go", io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)  # captured text that is read while a thread writes may be lost
    command = ["sh", "-c", f"echo one; until test -e {go}; do sleep 0.1; done; echo two; sleep 2; echo three"]
    with wire_to(int(address.rpartition(":")[2])) as wire:
        uploader = threading.Thread(target=jobs.run, args=(wire.address, f"line-{fault}", command))
        uploader.start()
        while "one\n" not in shown.getvalue():
            time.sleep(0.1)
        getattr(wire, fault)()
        go.touch()
        uploader.join()
    assert [shown.getvalue().count(f"{word}\n") for word in ("one", "two", "three")] == [1, 1, 1]
    assert ("Ray doesn't answer" in shown.getvalue()) == (fault == "cut")


@pytest.mark.slow
def test_a_cluster_that_stays_away_is_an_error(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLICY", RetryPolicy(0.1, 0.1, give_up_s=0.0))
    ran = tmp_path / "ran"
    client = ask(address)
    client.submit_job(entrypoint=f"touch {ran}; sleep 600", submission_id="away")
    until(ran.exists)
    with wire_to(int(address.rpartition(":")[2])) as wire, ThreadPoolExecutor() as pool:
        uploader = pool.submit(jobs.run, wire.address, "away", ["true"])
        until(lambda: wire.lines)
        wire.shutdown()
        wire.server_close()
        wire.cut()
        with pytest.raises(TuningError, match=r"^Ray at .* gives no valid answer"):
            uploader.result()
    client.stop_job("away")


@pytest.mark.slow
def test_an_interrupt_leaves_the_job_running(address: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = (
        "from backdrop.tuning.cluster import jobs; "
        f"jobs.run({address!r}, 'left', ['sh', '-c', 'touch {ran}; sleep 600'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    watcher = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    until(ran.exists)
    watcher.send_signal(signal.SIGINT)
    _, shown = watcher.communicate()
    assert "KeyboardInterrupt" in shown
    stop = next(line for line in shown.splitlines() if line.startswith("Ray job left keeps running.")).split("`")[1]
    assert str(ask(address).get_job_status("left")) == "RUNNING"
    subprocess.run(stop.replace("ray ", f"{RAY} "), shell=True, check=True, capture_output=True)
    assert str(ask(address).get_job_status("left")) == "STOPPED"


@pytest.mark.slow
def test_a_forgotten_job_is_an_error(address: str) -> None:
    with pytest.raises(TuningError, match="no longer knows its job nowhere"):
        jobs._follow(ask(address), "nowhere")


@pytest.mark.thorough
def test_a_wrong_token_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(TuningError, match=r"rejects the token. Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"):
        jobs.run(address, "intruder", ["true"])


@pytest.mark.thorough
def test_the_token_may_lie_in_a_file(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("wrong\n")
    (tmp_path / "token").write_text(f"{SECRET}\n")
    with pytest.raises(TuningError, match="rejects the token"):
        jobs.run(address, "file", ["true"])
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    jobs.run(address, "file", ["true"])
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nothing"))
    with pytest.raises(TuningError, match="nothing, which can't be read"):
        jobs.run(address, "file", ["true"])


def test_without_a_token_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        with pytest.raises(TuningError, match=r"There is no token for the Ray cluster. Set RAY_AUTH_TOKEN"):
            jobs.run(f"http://127.0.0.1:{port}", "anonymous", ["true"])
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:8265"])
def test_an_unreachable_cluster_is_reported(address: str) -> None:
    with pytest.raises(TuningError, match=r"gives no valid answer .* Check that it runs, and that RAY_ADDRESS"):
        jobs.run(address, "far", ["true"])


def test_a_cluster_that_never_answers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TIMEOUT_S", (0.2, 0.2))
    with silent() as port, pytest.raises(TuningError, match=rf"^Ray at http://127.0.0.1:{port} gives no .*timed out"):
        jobs.run(f"http://127.0.0.1:{port}", "tune-1", ["true"])


@pytest.mark.parametrize("address", ["head:6379", "ray://head:10001", "auto"])
def test_an_address_that_is_not_a_dashboard_is_reported(address: str) -> None:
    with pytest.raises(TuningError, match=f"^Ray's address {address} isn't an http address"):
        jobs.run(address, "far", ["true"])


@pytest.mark.slow
def test_a_whole_search_runs_on_the_cluster(
    address: str, cars: tuple[Path, Path], space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = map(str, cars)
    budget = Budget(trials=3, epochs=2, searcher="random", repeats=2)
    here = tune(data, plan, "tiny", str(tmp_path / "here"), budget, str(space)).search
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("HOME", str(tmp_path))  # no token of Ray's own making
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    out = tmp_path / "there"
    with pytest.raises(TuningError, match="There is no token for the Ray cluster"):
        tune(data, plan, "tiny", str(out), budget, str(space))
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    there = tune(data, plan, "tiny", str(out), budget, str(space)).search
    assert [(one.name, one.dices) for one in there.trials] == [(one.name, one.dices) for one in here.trials]
    assert there.chosen == here.chosen
    assert tune(data, plan, "tiny", str(out), budget, str(space)).reused
