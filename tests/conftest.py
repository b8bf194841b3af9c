"""Small things that many tests need."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from backdrop.dataset import open_dataset
from backdrop.folds import Rule, dump_plan, make_plan

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

HEIGHT, WIDTH = 48, 64


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave nothing in the cache of whoever runs them."""
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path_factory.mktemp("cache")))


def draw_pair(folder: Path, stem: str, seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """A dark ellipse on a light noisy ground, and its mask."""
    random = np.random.default_rng(seed)
    height, width = size
    mask = np.zeros((height, width), np.uint8)
    axes = (int(width * random.uniform(0.2, 0.35)), int(height * random.uniform(0.2, 0.35)))
    cv2.ellipse(mask, (width // 2, height // 2), axes, float(random.uniform(0, 30)), 0, 360, 255, -1)
    image = random.integers(190, 230, (height, width, 3)).astype(np.uint8)
    image[mask > 0] //= 3
    for name in ("train", "train_masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "train" / f"{stem}.jpg"), image)
    cv2.imwrite(str(folder / "train_masks" / f"{stem}_mask.png"), mask)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Makes a dataset of so many objects and views, and gives its folder."""

    def make(objects: int = 6, views: int = 2, name: str = "data") -> Path:
        for index in range(objects):
            for view in range(views):
                draw_pair(tmp_path / name, f"car{index:02d}_{view + 1:02d}", 100 * index + view)
        return tmp_path / name

    return make


@pytest.fixture
def data(make_dataset: Callable[..., Path]) -> Path:
    """Six objects with two views each."""
    return make_dataset()


@pytest.fixture
def plan(data: Path, tmp_path: Path) -> Path:
    """A plan of `data`: two folds and one object held out."""
    path = tmp_path / "plan.csv"
    path.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))))
    return path


# What makes the smallest recipe train in a second: the tests' own overrides.
SMALL = ("epochs=2", "input.size=64x32", "network.width=4", "network.depth=2", "batch_size=2", "ema=null")
