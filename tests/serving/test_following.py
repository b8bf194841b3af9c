"""The service follows a real registry: promotions, rollbacks, holds, and a registry that goes away."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common.errors import TrackingError
from backdrop.common.retry import RetryPolicy
from backdrop.serving.champion import Champion
from backdrop.steps.promote import override, promote
from backdrop.steps.rollback import rollback
from backdrop.tracking.client import connect
from tests.serving.conftest import Service, serving
from tests.tracking.conftest import clean, store, workspace  # noqa: F401  # fixtures
from tests.tracking.workspace import Workspace


@pytest.fixture
def registry(store: Path, clean: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811  # fixtures
    monkeypatch.chdir(store)
    monkeypatch.setattr("backdrop.serving.champion.POLICY", RetryPolicy(0.05, 0.05))


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def served(service: Service, png: bytes) -> str:
    reply = service.post("/v1/mask", png)
    return str(reply.headers["backdrop-model"]) if reply.status == 200 else str(reply.status)


def test_the_champion_is_followed_and_back(
    registry: None,
    workspace: Workspace,  # noqa: F811  # a fixture
    tmp_path: Path,
    png: bytes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"model-{tmp_path.name}"
    with serving(Champion(f"models:/{name}@champion")) as service:
        assert served(service, png) == "503"
        workspace.register(name, 1, 0.95)
        promote(str(workspace.data), name)
        wait(lambda: served(service, png) == f"models:/{name}/1")
        workspace.register(name, 2, 0.93)
        assert service.get("/readyz").json["registry"] == "answers"
        override(name, 2, "it looks better")
        wait(lambda: served(service, png) == f"models:/{name}/2")
        # A person moves MLflow's alias by hand, and the history doesn't know.
        connect().set_registered_model_alias(name, "champion", "1")
        assert served(service, png) == f"models:/{name}/2"
        rollback(name, reason="it doesn't")
        wait(lambda: served(service, png) == f"models:/{name}/1")
        with monkeypatch.context() as away:
            away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            wait(lambda: service.get("/readyz").json["registry"] == "away")
            assert served(service, png) == f"models:/{name}/1"
        wait(lambda: service.get("/readyz").json["registry"] == "answers")
        assert "backdrop_model_switches 2.0" in service.get("/metrics").body.decode()
    shown = capsys.readouterr().err
    assert f"There is no models:/{name}@champion" in shown
    assert f"still serving models:/{name}/1; looking again" in shown


def test_a_version_whose_files_were_changed_never_takes_over(
    registry: None,
    workspace: Workspace,  # noqa: F811  # a fixture
    store: Path,  # noqa: F811  # a fixture
    tmp_path: Path,
) -> None:
    name = f"model-{tmp_path.name}"
    champion = Champion(f"models:/{name}@champion")
    workspace.register(name, 1, 0.95)
    promote(str(workspace.data), name)
    champion.look()
    version = workspace.register(name, 2, 0.96)
    override(name, version.version, "a test")
    source = connect().get_model_version(name, str(version.version)).source.removeprefix("models:/")
    (weights, *_) = sorted(next(store.rglob(source)).rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(TrackingError, match="were changed"):
        champion.look()
    assert champion.current is not None
    assert champion.current.address == f"models:/{name}/1"
    assert "were changed" in champion.trouble


def test_a_model_that_was_made_again_takes_over_under_the_same_number(
    registry: None,
    workspace: Workspace,  # noqa: F811  # a fixture
    tmp_path: Path,
) -> None:
    name = f"model-{tmp_path.name}"
    champion = Champion(f"models:/{name}@champion")
    served = []
    for seed in (1, 2):
        workspace.register(name, seed, 0.95)
        promote(str(workspace.data), name)
        champion.look()
        assert champion.current is not None
        served.append((champion.current.address, [one.record.seed for one in champion.current.model.members]))
        connect().delete_registered_model(name)
    assert served == [(f"models:/{name}/1", [1, 1]), (f"models:/{name}/1", [2, 2])]
    assert champion.switches == 1


def test_a_malformed_address_is_refused() -> None:
    with pytest.raises(TrackingError, match="cars isn't a model's address"):
        Champion("cars")
