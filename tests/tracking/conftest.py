"""Both ways of tracking, a real MLflow server and the embedded store, and a workspace to track."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.config import find_recipe
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan
from tests.tracking.workspace import HELD, Workspace, write_member


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], Path]) -> Path:
    """A folder with an embedded store."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "BACKDROP_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["embedded", "server"])
def tracked(request: pytest.FixtureRequest, clean: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of tracking: the current folder's store, and a server. Every test has an experiment of its own."""
    if request.param == "embedded":
        monkeypatch.chdir(request.getfixturevalue("store"))
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("mlflow_server"))
    return str(request.param)


@pytest.fixture
def workspace(make_dataset: Callable[..., Path], tmp_path: Path) -> Workspace:
    """Sixteen objects, twelve of them held out."""
    data, plan = make_dataset(objects=HELD + 4), tmp_path / "plan.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, HELD / (HELD + 4), "area", 0))))
    return Workspace(tmp_path, data, plan)


@pytest.fixture
def member(tmp_path: Path) -> Path:
    """A member folder that belongs to no data."""
    recipe = find_recipe("tiny", ["network.width=2", "network.depth=1", "epochs=3"])
    return write_member(tmp_path / "member", recipe, "c" * 64, 1)


@pytest.fixture
def artifacts(tracked: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds the folder of a run's or model's artifacts by its id, where the store or the server keeps it."""

    def find(name: str) -> Path:
        for root in sorted(tmp_path_factory.getbasetemp().glob("store*" if tracked == "embedded" else "mlflow*")):
            for folder in root.rglob(name):
                return folder / "artifacts"
        raise AssertionError(f"There is no {name}")

    return find
