import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.entities import Run

from backdrop.common.errors import ConfigError, MemberError, TrackingError
from backdrop.common.retry import RetryPolicy
from backdrop.config import Recipe
from backdrop.config.records import parse, parse_yaml
from backdrop.tracking import client, metrics_uploader, provenance, tracking_uri, version_page
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.client import connect, experiment_id, server_errors
from backdrop.tracking.members import fetch_member, find_member, run_of
from backdrop.tracking.registry import require_version
from backdrop.tracking.runs import MemberRun, flatten
from tests.fakes.http import JsonHandler, free_port, running, silent
from tests.fakes.mlflow import local_server
from tests.fakes.proxy import GATE_LOGIN, gated
from tests.tracking.workspace import START_MS, metrics_line, write_member

KEY = "c" * 64


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_uploader, "POLICY", RetryPolicy(0.05, 60.0))


def recipe_of(member: Path) -> Recipe:
    return parse(Recipe, parse_yaml((member / "recipe.yaml").read_text(), "recipe.yaml"), "recipe.yaml")


def the_run(address: str) -> Run:
    return connect().get_run(run_of(address))


def points(run_id: str, key: str = "dice") -> list[tuple[int, float, int]]:
    return [(m.step, m.value, m.timestamp) for m in connect().get_metric_history(run_id, key)]


def test_a_member_is_found_again_and_fetched_whole(tracked: str, member: Path) -> None:
    assert find_member(KEY) is None
    with MemberRun(KEY, recipe_of(member), 1) as run:
        run.follow(member / "metrics.jsonl")
        assert find_member(KEY) is None  # it isn't finished
        address = run.finish(member)
    assert find_member(KEY) == address == f"runs:/{run.run_id}/member"
    tracked_run = the_run(address)
    assert (tracked_run.info.status, tracked_run.info.run_name) == ("FINISHED", "tiny-1")
    tags = {key: value for key, value in tracked_run.data.tags.items() if key.startswith("backdrop.")}
    assert abs(time.time() - int(tags.pop("backdrop.heartbeat")) / 1000) < 600
    assert json.loads(tags.pop("backdrop.owner"))["pid"] == os.getpid()
    assert tags == {
        "backdrop.kind": "member",
        "backdrop.content_key": KEY,
        "backdrop.recipe": "tiny",
        "backdrop.fold": "1",
    }
    assert tracked_run.data.params["network.width"] == "2"
    assert tracked_run.data.metrics["selected_dice"] == 0.9
    copy = fetch_member(address)
    names = {"member.json", "recipe.yaml", "weights.safetensors", "metrics.jsonl", "curves.png", "samples/worst-1.png"}
    assert {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} == names
    assert (copy / "weights.safetensors").read_bytes() == (member / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("end", ["/mlflow", "/mlflow/"])
def test_a_server_below_a_path_with_a_login(
    end: str, mlflow_server: str, clean: None, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
    with gated(int(mlflow_server.rpartition(":")[2])) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}{end}")
        with pytest.raises(
            TrackingError, match=rf"{end} doesn't accept your credentials.* Set {login[0]} and {login[1]}"
        ):
            connect()
        for name, value in zip(login, GATE_LOGIN.split(":", 1), strict=True):
            monkeypatch.setenv(name, value)
        with MemberRun(KEY, recipe_of(member), 1) as run:
            found = run.finish(member)
        assert find_member(KEY) == found
        assert (fetch_member(found) / "weights.safetensors").read_bytes() == (
            member / "weights.safetensors"
        ).read_bytes()
        assert version_page("cars", 2) == f"{address}/mlflow/#/models/cars/versions/2"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(
            TrackingError, match=r"answers, but it isn't MLflow \(404\)\. Fix MLFLOW_TRACKING_URI: in a"
        ):
            connect()


def test_a_login_that_expires_in_the_middle_is_to_be_renewed(
    mlflow_server: str, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gated(int(mlflow_server.rpartition(":")[2])) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/mlflow")
        for name, value in zip(("USERNAME", "PASSWORD"), GATE_LOGIN.split(":", 1), strict=True):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        client = connect()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "expired")
        message = r"^It failed \(.* 401 .*\)\. Set MLFLOW_TRACKING_USERNAME and"
        with pytest.raises(TrackingError, match=message), server_errors("It failed"):
            client.search_experiments()


def test_a_login_page_is_no_server(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a proxy that sends whoever has no session there, with 200."""

    class Page(JsonHandler):
        def do_POST(self) -> None:  # noqa: N802  # http.server's name
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Log in</title>")

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Page)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(TrackingError, match=r"answers, but it isn't MLflow \(200\)"):
            connect()


def test_pictures_are_images_of_the_run(tracked: str, member: Path) -> None:
    picture = np.full((20, 30, 3), (200, 40, 10), np.uint8)
    with MemberRun(KEY, recipe_of(member), 1) as run:
        run.show("lost", 0, picture)  # nobody follows yet
        run.follow(member / "metrics.jsonl")
        for epoch in (0, 3):
            run.show("car/7_01", epoch, picture)
        run.finish(member)
    names = [entry.path for entry in connect().list_artifacts(run.run_id, "images")]
    stored = sorted(name for name in names if name.endswith(".png"))
    key = metrics_uploader.picture_key("car/7_01")
    assert [name.split("+timestamp")[0] for name in stored] == [f"images/{key}+step+0", f"images/{key}+step+3"]
    path = connect().download_artifacts(run.run_id, stored[0])
    assert (cv2.imread(path)[..., ::-1] == picture).all()


@given(st.sets(st.text(st.sampled_from("aé_/#. "), min_size=1, max_size=150) | st.text(min_size=1, max_size=300)))
@example({"über_01", "äber_01", "_ber_01", "a" * 254, "a" * 253 + "b"})
def test_no_two_photographs_share_a_key_that_mlflow_takes(names: set[str]) -> None:
    keys = [metrics_uploader.picture_key(name) for name in names]
    assert len({*keys}) == len(names)
    assert not any(metrics_uploader.UNNAMABLE.search(key) or len(key) > 150 for key in keys)
    plain = re.compile(r"[\w. -]{1,100}", re.ASCII)
    assert all(key == name for key, name in zip(keys, names, strict=True) if plain.fullmatch(name))


def test_pictures_wait_for_a_server_that_refuses_them_while_the_run_lives(
    tracked: str, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up, sent = False, list[tuple[str, int]]()

    def log_image(_: str, __: object, key: str, step: int, synchronous: bool) -> None:
        if not up:
            raise OSError("away")
        assert synchronous
        sent.append((key, step))

    with MemberRun(KEY, recipe_of(member), 1) as run:
        server = connect()
        server.delete_tag(run.run_id, metrics_uploader.HEARTBEAT)
        monkeypatch.setattr(server, "log_image", log_image)
        uploader = metrics_uploader.MetricsUploader(server, run.run_id, member / "metrics.jsonl")
        for step in range(50):
            uploader.show("car", step, np.zeros((2, 2, 3), np.uint8))
        with pytest.raises(OSError, match="away"):
            uploader._pass()
        found = server.get_run(run.run_id).data
        assert "loss" in found.metrics
        assert metrics_uploader.HEARTBEAT in found.tags
        up = True
        uploader._send_pictures()
    assert sent == [("car", step) for step in range(10, 50)]  # the last 40


def git(*words: str) -> str:
    nobody = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
    return subprocess.run(["git", *nobody, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_says_what_made_it(tracked: str, member: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_ACTOR", "ada@laptop")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    commits = {}
    for folder in (tmp_path / "plain", tmp_path / "checkout"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        if folder.name == "checkout":
            git("init", "--quiet")
            git("commit", "--quiet", "--allow-empty", "--message", "empty")
        provenance.commit.cache_clear()
        with MemberRun(KEY, recipe_of(member), 1, fresh=True) as run:
            found = the_run(run.finish(member))
        tags = found.data.tags
        assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("backdrop train", "LOCAL")
        assert tags["mlflow.user"] == found.info.user_id == "ada@laptop"
        commits[folder.name] = tags.get("mlflow.source.git.commit")
    provenance.commit.cache_clear()
    assert commits == {"plain": None, "checkout": git("rev-parse", "HEAD")}


def usage(run_id: str) -> set[str]:
    return {key for key in connect().get_run(run_id).data.metrics if key.startswith("system/")}


def test_a_run_shows_how_busy_the_machine_was(tracked: str, member: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    with MemberRun(KEY, recipe_of(member), 1) as run:
        run.follow(member / "metrics.jsonl")
        deadline = time.monotonic() + 60
        while not usage(run.run_id) and time.monotonic() < deadline:
            time.sleep(0.1)
        run.finish(member)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= usage(run.run_id)
    for switch in (
        lambda: monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false"),
        lambda: monkeypatch.setitem(sys.modules, "psutil", None),  # as if it weren't installed
    ):
        with monkeypatch.context():
            switch()
            with MemberRun(KEY, recipe_of(member), 1, fresh=True) as run:
                run.follow(member / "metrics.jsonl")
                assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
                run.finish(member)


def test_a_replay_adds_no_point_twice(tracked: str, member: Path) -> None:
    killed = MemberRun(KEY, recipe_of(member), 1).__enter__()
    killed.follow(member / "metrics.jsonl")
    killed.__exit__(KeyboardInterrupt, None, None)
    assert connect().get_run(killed.run_id).info.status == "KILLED"
    assert len(points(killed.run_id)) == 3
    # The resumed training wrote the last epoch anew, at another time.
    lines = (member / "metrics.jsonl").read_text().splitlines(keepends=True)
    (member / "metrics.jsonl").write_text("".join([*lines[:2], metrics_line(2, time_ms=START_MS + 99_000)]))
    with MemberRun(KEY, recipe_of(member), 1) as again:
        again.follow(member / "metrics.jsonl")
        again.finish(member)
    assert again.run_id == killed.run_id
    for key in ("lr", "loss", "dice"):
        assert [step for step, *_ in points(again.run_id, key)] == [0, 1, 2]
    assert [time_ms for *_, time_ms in points(again.run_id)] == [START_MS, START_MS + 1000, START_MS + 2000]


def test_points_appear_while_training_runs(tracked: str, member: Path, tmp_path: Path) -> None:
    written = tmp_path / "elsewhere.jsonl"
    run = MemberRun(KEY, recipe_of(member), 1).__enter__()
    run.follow(written)
    written.write_text(metrics_line(0) + metrics_line(1)[:20])  # the second line is being written
    deadline = time.monotonic() + 60
    while not points(run.run_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [step for step, *_ in points(run.run_id)] == [0]
    run.__exit__(ZeroDivisionError, None, None)
    assert connect().get_run(run.run_id).info.status == "FAILED"


@pytest.mark.thorough
def test_the_server_may_go_and_come(clean: None, member: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"):
        monkeypatch.setenv(pause, "0")
    port, metrics, recipe = free_port(), tmp_path / "written.jsonl", recipe_of(member)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(metrics_uploader, "POLICY", RetryPolicy(0.05, 0.2))
    monkeypatch.setattr(client, "POLICY", RetryPolicy(1.0, 30.0, give_up_s=0))
    with local_server(tmp_path / "mlflow", port):
        staying, ending = MemberRun("a" * 64, recipe, 1).__enter__(), MemberRun(KEY, recipe, 1).__enter__()
        metrics.write_text(metrics_line(0))
        staying.follow(metrics)
        ending.follow(metrics)
    # The training that ends while the server stays away loses nothing, and its error says how to go on.
    metrics.write_text(metrics_line(0) + metrics_line(1))
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"is finished, but can't be uploaded.* same command again"):
        ending.finish(member)
    ending.__exit__(TrackingError, None, None)
    assert time.monotonic() - start < 30
    with local_server(tmp_path / "mlflow", port):
        metrics.write_text(metrics_line(0) + metrics_line(1) + metrics_line(2))
        staying.finish(write_member(tmp_path / "staying", recipe, "a" * 64, 1))
        assert find_member(KEY) is None
        with MemberRun(KEY, recipe, 1) as again:
            assert find_member(KEY) is None
            assert find_member("a" * 64) == f"runs:/{staying.run_id}/member"
            again.finish(member)
        assert again.run_id == ending.run_id
        assert find_member(KEY) == f"runs:/{again.run_id}/member"
        for run in (staying, again):
            assert [step for step, *_ in points(run.run_id)] == [0, 1, 2]


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED"])
def test_a_pipelines_run_is_the_parent(
    status: str, tracked: str, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = connect()
    elsewhere = server.create_experiment(f"kubeflow-{uuid.uuid4().hex}")
    given = server.create_run(elsewhere, run_name="train-task").info.run_id
    server.update_run(given, status)
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with MemberRun(KEY, recipe_of(member), 1) as run:
        run.finish(member)
    assert server.get_run(run.run_id).data.tags["mlflow.parentRunId"] == given
    assert find_member(KEY) == f"runs:/{run.run_id}/member"
    theirs = server.get_run(given)
    assert (theirs.info.status, theirs.data.params, theirs.data.metrics) == (status, {}, {})


def test_a_run_of_another_server_is_not_the_parent(tracked: str, member: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with MemberRun(KEY, recipe_of(member), 1) as run:
        assert "mlflow.parentRunId" not in connect().get_run(run.run_id).data.tags


class Answering(JsonHandler):
    """As MLflow answers a search for experiments."""

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        self.body()
        self.reply(200, {"experiments": []})


def test_a_pod_waits_for_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(client, "POLICY", RetryPolicy(0.1, 0.1, give_up_s=60.0))
    with pytest.raises(TrackingError, match="doesn't answer"):
        connect()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(TrackingError, match="doesn't answer"):
        connect(wait=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connect)
        time.sleep(0.5)
        with running(ThreadingHTTPServer(("127.0.0.1", port), Answering)):
            assert waiting.result().search_experiments() == []
    assert "doesn't answer yet" in capfd.readouterr().err


FIRST = """
import sys
from pathlib import Path
from backdrop.inference.member import read_member
from backdrop.tracking.runs import MemberRun
member = read_member(Path(sys.argv[1]))
for _ in range(2):
    with MemberRun(sys.argv[2], member.recipe, 1) as run:
        run.follow(member.folder / "metrics.jsonl")
        print(run.run_id, flush=True)
        sys.stdin.readline()
        run.finish(member.folder)
    print("finished", flush=True)
    sys.stdin.readline()
"""


def test_two_trainers_of_one_member_have_a_run_each(tracked: str, member: Path) -> None:
    """The second neither writes to the first one's run nor opens it again; it takes over only a killed one's."""
    command = [sys.executable, "-c", FIRST, str(member), KEY]
    server, recipe = connect(), recipe_of(member)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        run_id = first.stdout.readline().strip()
        with MemberRun(KEY, recipe, 1) as second:
            assert second.run_id != run_id
            first.stdin.write("\n")
            assert first.stdout.readline() == "finished\n"
            assert server.get_run(run_id).info.status == "FINISHED"
            second.finish(member)
        assert server.get_run(run_id).info.status == "FINISHED"
        first.stdin.write("\n")  # it begins another run
        run_id = first.stdout.readline().strip()
        first.kill()
    with MemberRun(KEY, recipe, 1) as third:
        assert third.run_id == run_id
        third.finish(member)


def test_members_that_start_at_once_share_one_experiment(tracked: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: experiment_id(connect()), range(8)))
    assert len(ids) == 1


def test_a_deleted_experiment_is_reported(tracked: str) -> None:
    server = connect()
    server.delete_experiment(experiment_id(server))
    with pytest.raises(TrackingError, match="was deleted"):
        find_member(KEY)


def test_an_experiment_that_is_named_by_its_number_must_be_there(tracked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = connect()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number := experiment_id(server))
    assert experiment_id(server) == number
    server.delete_experiment(number)
    with pytest.raises(TrackingError, match=r"was deleted\. Restore it or set MLFLOW_EXPERIMENT_ID to another"):
        find_member(KEY)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987")
    with pytest.raises(
        TrackingError, match=r"Experiment 987 can't be opened.*\. Check the server and MLFLOW_EXPERIMENT_ID"
    ):
        find_member(KEY)


def test_an_unfinished_folder_is_not_uploaded(tracked: str, member: Path) -> None:
    recipe = recipe_of(member)
    (member / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(MemberError), MemberRun(KEY, recipe, 1) as run:
        run.finish(member)
    assert connect().get_run(run.run_id).info.status == "FAILED"


def test_a_missing_server_is_reported_within_seconds(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1") as caught:
        find_member(KEY)
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("variable", client.BUNDLES)
def test_missing_certificates_are_not_taken_for_a_missing_server(
    clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"{tmp_path}/ca.pem")
    for scheme, error in (("https", ConfigError), ("http", TrackingError)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://127.0.0.1:{free_port()}")
        says = f"^{tmp_path}/ca.pem, which {variable} names" if scheme == "https" else "doesn't answer"
        with pytest.raises(error, match=says):
            connect()


def test_a_server_that_hangs_counts_as_down(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    with silent() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match="doesn't answer"):
            find_member(KEY)


def test_so_does_a_server_of_models_that_hangs(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    with silent() as port:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match=rf":{port} doesn't answer .* or fix MLFLOW_REGISTRY_URI"):
            find_member(KEY)


def test_a_registry_whose_driver_is_missing_is_reported(
    clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "mssql+pyodbc://127.0.0.1:1/x")
    with pytest.raises(TrackingError, match="No module named 'pyodbc'"):
        require_version("models:/cars@champion")


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "databricks-uc", "uc:http://127.0.0.1:1"])
def test_databricks_is_refused_by_name(
    clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, uri)
    with pytest.raises(TrackingError, match=rf"^{variable} is {uri}, and Backdrop doesn't support Databricks\. Set "):
        connect()


@pytest.mark.parametrize(
    "uri", ["ftp://me:secret@mlflow.example/x", "nonsense", "./mlruns", "postgresql://me:secret@127.0.0.1:1/x"]
)
def test_what_mlflow_does_not_know_is_refused(clean: None, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"MLFLOW_TRACKING_URI is .*, which MLflow can't use") as caught:
        find_member(KEY)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["runs:/../member", "runs:/abc", "runs:/abc/model", "runs:/"])
def test_only_a_members_address_is_fetched(clean: None, address: str) -> None:
    with pytest.raises(TrackingError, match="isn't a member's address"):
        fetch_member(address)


def test_a_finished_member_of_the_store_is_found_and_fetched_without_mlflow(
    clean: None, store: Path, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    with MemberRun(KEY, recipe_of(member), 1) as run:
        address = run.finish(member)
    fetch_member(address)
    code = "import sys; from backdrop.tracking.members import fetch_member as f, find_member as g"
    code += f"; a = g('{KEY}'); print(a, f(a), 'mlflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [address, str(fetch_member(address)), "False"]
    search = connect().search_runs([experiment_id(connect())], f"tags.`backdrop.content_key` = '{KEY}'")
    assert [f"runs:/{listed.info.run_id}/member" for listed in search] == [address]
    connect().delete_run(run.run_id)
    assert find_member(KEY) is None


def test_a_missing_run_is_reported(tracked: str) -> None:
    with pytest.raises(TrackingError, match="can't be fetched"):
        fetch_member("runs:/" + "0" * 32 + "/member")
    assert not list(Path(os.environ["BACKDROP_CACHE"]).rglob("members/*"))


def test_settings_are_flattened() -> None:
    values = {"a": {"b": 1, "none": None}, "lrs": [1, 2], "phases": [{"kind": "x"}], "long": "y" * 9000}
    assert dict(flatten(values)) == {"a.b": "1", "lrs": "[1, 2]", "phases.0.kind": "x", "long": "y" * 500}


def test_odd_lines_are_no_points(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[]\n{}\nnothing\n" + json.dumps({"epoch": 1, "loss": 2}) + "\n")
    assert list(metrics_uploader.read_points(tmp_path / "metrics.jsonl")) == []
    assert list(metrics_uploader.read_points(tmp_path / "absent.jsonl")) == []


def test_of_two_downloads_at_once_one_is_kept(tmp_path: Path) -> None:
    folder, both = tmp_path / "copy", threading.Barrier(2)

    def fetch(number: int) -> str:
        def fill(target: Path) -> None:
            (target / "number").write_text(str(number))
            both.wait(60)

        return (fetch_once(folder, fill) / "number").read_text()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, (1, 2))
    assert first in "12"
    assert second in "12"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from backdrop.tracking.cache import fetch_once\n"
        "fetch_once(Path(sys.argv[1]), lambda folder: ((folder / 'part').write_text('1'), os.kill(os.getpid(), 9)))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "copy")], check=False)
    assert killed.returncode == -9
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["part"]
    fetch_once(tmp_path / "copy", lambda folder: (folder / "whole").touch())
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
