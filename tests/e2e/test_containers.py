"""Runs in containers: a failure is one, every time; and the whole pipeline goes to a champion as an ordinary user."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
import yaml
from kfp import dsl, local

from backdrop.common.processes import terminable
from backdrop.components.image import IMAGE, component
from backdrop.local.docker_runner import docker_runner, run_container

pytestmark = pytest.mark.e2e

RUN = ("-m", "backdrop", "pipeline", "run")
SOMEBODY = 4321
# Small enough for two cores: a minute or two. What it learns in so few steps is a matter of chance.
SMALL = {
    "name": "small",
    "folds": {"count": 2},
    "members": [{"recipe": "tiny", "set": {"epochs": 8, "input.size": "96x64", "ema": 0.9}}],
    "gate": {"minimum_dice": 0},
}


def test_failing_container_fails_every_time(engine: docker.DockerClient) -> None:
    """With kfp's own run_docker_container 7 of 40 came back as 0."""

    def once(_: int) -> int:
        return run_container(engine, IMAGE, ["sh", "-c", "exit 3"], {})

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(once, range(40))) == [3] * 40
    assert run_container(engine, IMAGE, ["true"], {}) == 0


def test_container_that_cannot_start_fails(engine: docker.DockerClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_container(engine, IMAGE, ["/no/such"], {}, name="no-such") == 1
    assert "/no/such" in capsys.readouterr().out
    assert not engine.containers.list(all=True, filters={"name": "no-such"})


def test_container_ends_with_the_run(engine: docker.DockerClient) -> None:
    def end_run() -> None:
        while not engine.containers.list(filters={"name": "sleeper"}):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool, terminable():
        pool.submit(end_run)
        with pytest.raises(SystemExit):
            run_container(engine, IMAGE, ["sleep", "1000"], {}, name="sleeper")
    assert not engine.containers.list(all=True, filters={"name": "sleeper"})


def test_data_can_only_be_read(engine: docker.DockerClient, data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    options = docker_runner(str(data), [work], work).container_run_args

    def touch(path: Path) -> int:
        return run_container(engine, IMAGE, ["touch", str(path)], {}, **options)

    assert touch(work / "new") == 0
    assert (work / "new").stat().st_uid == os.getuid()
    assert touch(data / "new") != 0
    assert not (data / "new").exists()


def test_settings_reach_the_task(
    engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("SOMETHING_ELSE", "secret")
    options = docker_runner("s3://bucket/data", [tmp_path / "work"], tmp_path).container_run_args
    assert run_container(engine, IMAGE, ["env"], {}, **options) == 0
    said = capsys.readouterr().out
    assert "AWS_ENDPOINT_URL=http://127.0.0.1:9000" in said
    assert f"BACKDROP_CACHE={os.environ['BACKDROP_CACHE']}" in said
    assert "SOMETHING_ELSE" not in said


@component
def leave(code: int) -> None:
    """Ends with this exit code."""
    import sys

    sys.exit(code)


def test_task_whose_container_fails_is_reported_as_failed(engine: docker.DockerClient, tmp_path: Path) -> None:
    @dsl.pipeline(name="leave")
    def graph(code: int) -> None:
        leave(code=code)

    root = tmp_path / "runs"
    root.mkdir()
    local.init(
        docker_runner("s3://bucket/data", [tmp_path / "work"], tmp_path), pipeline_root=str(root), raise_on_error=True
    )
    graph(code=0)
    with pytest.raises(RuntimeError, match="leave"):
        graph(code=7)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of somebody who isn't root, if root runs the tests: pytest's own would be closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:
            os.chown(folder, SOMEBODY, SOMEBODY)
        yield Path(folder)


def call(home: Path, *arguments: object, code: int = 0) -> str:
    """Runs Python as somebody in Docker's group, who may read all: root's Python may be closed."""
    group = Path("/var/run/docker.sock").stat().st_gid
    caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    somebody = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", f"--groups={group}", *caps]
    command = [*(somebody if os.getuid() == 0 else ()), sys.executable, *map(str, arguments)]
    tracking = ("MLFLOW_", "BACKDROP_TRACKING")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(tracking)}
    environment |= {"HOME": str(home), "BACKDROP_CACHE": str(home / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_image_that_is_not_there(
    engine: docker.DockerClient, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_IMAGE", "no/such:1")
    command = (
        "-m",
        "backdrop",
        "pipeline",
        "run",
        "tiny",
        "--data",
        data,
        "--work",
        home / "work",
        "--runner",
        "docker",
    )
    assert call(home, *command, code=2).startswith("error: Docker has no image no/such:1. Build it with `make image`")
    assert not (home / "work").exists()


def test_pipeline_in_containers_makes_a_champion(engine: docker.DockerClient, home: Path) -> None:
    data, work, ensemble = home / "data", home / "work", home / "small.yaml"
    ensemble.write_text(yaml.safe_dump(SMALL))
    call(home, "-m", "backdrop", "sample", data, "--objects", 6, "--views", 4, "--size", "192x128", "--seed", 2)
    text = call(
        home, "-m", "backdrop", "pipeline", "run", ensemble, "--data", data, "--work", work, "--runner", "docker"
    )
    assert text.count("done in") == 7
    assert "promoted: it is models:/small@champion now" in text
    owners = {path.stat().st_uid for path in work.rglob("*")}
    assert owners == {SOMEBODY if os.getuid() == 0 else os.getuid()}
