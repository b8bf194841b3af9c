"""MLflow as the chart starts it: the real server, with the rendered commands and environment."""

import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import containers, environment, named
from tests.fakes.http import free_port

pytestmark = pytest.mark.e2e
API = "/api/2.0/mlflow/experiments/search?max_results=1"
NAMES = ["backdrop-mlflow", "backdrop-mlflow.ml", "backdrop-mlflow.ml.svc", "backdrop-mlflow.ml.svc.cluster.local"]


def started(container: dict[str, Any], volume: Path) -> "subprocess.Popen[bytes]":
    """Runs a container's command here, with its folders below `volume`, and nothing else in its environment."""
    env = {name: value.replace("/mlflow", f"{volume}/mlflow", 1) for name, value in environment(container).items()}
    env |= {"HOME": str(volume), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], word) for word in container["command"]]
    return subprocess.Popen(command, env=env, cwd="/")


def answer(port: int, path: str, host: str, address: str = "127.0.0.1") -> int:
    with closing(http.client.HTTPConnection(address, port, timeout=120)) as connection:
        connection.request("GET", path, headers={"Host": host})
        with connection.getresponse() as response:
            return response.status


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server like the Deployment's: its upgrade first, then itself."""
    volume, port = tmp_path_factory.mktemp("volume"), free_port()
    (volume / "mlflow").mkdir()
    deployment = named("Deployment", "backdrop-mlflow", "defaults", "--set", f"mlflow.port={port}")
    upgrade, server = containers(deployment["spec"]["template"])
    assert started(upgrade, volume).wait() == 0
    assert (volume / "mlflow" / "mlflow.db").is_file()
    process = started(server, volume)
    try:
        while process.poll() is None and not listens(port):
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    try:
        return answer(port, "/health", "10.0.0.1") == 200  # as the kubelet asks
    except OSError:
        return False


@pytest.mark.parametrize("name", [*NAMES, "localhost", "127.0.0.1"])
def test_it_answers_to_its_names(name: str, port: int) -> None:
    assert answer(port, API, f"{name}:{port}") == answer(port, API, name) == 200


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6 here")
def test_it_listens_on_ipv6_too(port: int) -> None:
    assert answer(port, "/health", "localhost", "::1") == 200


@pytest.mark.parametrize("name", ["evil.example", "backdrop-mlflow.evil.example", "backdrop-mlflow.other", "10.0.0.1"])
def test_it_answers_to_no_others(name: str, port: int) -> None:
    assert answer(port, API, f"{name}:{port}") == answer(port, API, name) == 403


def test_the_pipelines_address_is_one_of_its_names(port: int) -> None:
    settings = named("ConfigMap", "backdrop", "defaults", "--set", f"mlflow.port={port}")
    assert settings["data"]["MLFLOW_TRACKING_URI"] == f"http://{NAMES[-1]}:{port}"


def test_another_host_can_be_let_in() -> None:
    (_, server) = containers(named("Deployment", "cutouts-mlflow", "full")["spec"]["template"])
    hosts = environment(server)["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert hosts.split(",")[-1] == "mlflow.example"
    assert "*" not in hosts


def test_helms_own_test_finds_a_server_that_refuses(port: int) -> None:
    """The test's command, told where to ask: by a name that is let in, and by one that isn't."""
    pod = named("Pod", "backdrop-test-mlflow")
    (_, *command) = pod["spec"]["containers"][0]["command"]
    for host, well in (("localhost", True), ("0.0.0.0", False)):
        env = {**os.environ, "MLFLOW_TRACKING_URI": f"http://{host}:{port}", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
        done = subprocess.run([sys.executable, "-m", "backdrop", *command], env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == well, done.stdout + done.stderr
        assert well or "Invalid Host header" in done.stderr
        assert well or len(told(done.stderr)) == 1


def test_helms_own_test_does_not_wait_for_a_server_that_is_away() -> None:
    command = ["-m", *named("Pod", "backdrop-test-mlflow")["spec"]["containers"][0]["command"]]
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    (line,) = told(done.stderr)
    assert line.startswith("error: MLflow at http://127.0.0.1:9 doesn't answer")


def told(stderr: str) -> list[str]:
    """The lines, without those that say every ten seconds that it still runs."""
    return [line for line in stderr.splitlines() if not line.startswith("backdrop models (")]
