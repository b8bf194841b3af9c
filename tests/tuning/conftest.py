"""A world in which a trial takes a second, and a space for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.dataset import open_dataset
from backdrop.folds import Rule, dump_plan, make_plan

SPACE = """
name: small
set: {input.size: 64x32, network.width: 4, network.depth: 2, batch_size: 1, ema: null, checkpoint.every_steps: 1}
presets: [linknet34-faithful]
families:
  - {kind: cosine, rate: [3e-3, 3e-2], floor: [1e-2, 0.1]}
  - {kind: cycle, rate: [3e-3, 3e-2], factor: [0.05, 0.7], rounds: [2, 8], warmup: [0, 0.5]}
"""


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cluster the environment names, tests have their own."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cars(make_dataset: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of enough views that an epoch has some steps, and its plan: two folds, one object held out."""
    data, plan = make_dataset(objects=5, views=6, name="cars"), tmp_path / "cars.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))))
    return data, plan


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path
