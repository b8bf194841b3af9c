"""An endpoint to talk to, and the command line."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backdrop.cli.app import main
from backdrop.common import kubernetes_client
from backdrop.kubeflow import client
from tests.fakes.kfp import FakeKfp, serving

PARAMS = "data: s3://photos/cars\nwork: s3://photos/work\n"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No endpoint, token, namespace or cluster of whoever runs the tests."""
    for name in (client.HOST, client.UI_HOST, client.NAMESPACE, client.TOKEN, "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kubernetes_client, "POD_NAMESPACE", tmp_path / "none")


@pytest.fixture
def kfp() -> FakeKfp:
    """What Kubeflow holds: nothing yet."""
    return FakeKfp()


@pytest.fixture
def host(kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, which the environment names."""
    with serving(kfp) as address:
        monkeypatch.setenv(client.HOST, address)
        yield address


@pytest.fixture
def params(tmp_path: Path) -> str:
    """A file of a run's parameters."""
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls `backdrop pipeline`; gives the exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["backdrop", "pipeline", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return run
