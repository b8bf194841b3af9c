"""Small things that many tests need."""

import contextlib
import functools
import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import settings

from backdrop.config import find_recipe, shipped
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import dump_plan, make_plan
from backdrop.inference.member import RECORD

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For fixtures that are made once for many tests, before any test's own settings.
os.environ.setdefault("BACKDROP_TRACKING", "off")

# All that tests import stays: looking for garbage in it takes a tenth of their time (see pytest_collection_finish).
gc.disable()

# kfp asks for the names of its callers dozens of times per pipeline. Without their lines of source, under pytest's
# deep stack and with all modules loaded, that takes milliseconds and not seconds.
inspect.stack.__defaults__ = (0,)

# Found before what is installed, also by the processes that tests start.
SHADOW = str(Path(__file__).parent / "shadow")
sys.path.insert(0, SHADOW)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SHADOW, os.environ.get("PYTHONPATH")]))

HEIGHT, WIDTH = 48, 64

NEEDS_TIMM = [
    pytest.mark.encoders,
    pytest.mark.skipif(find_spec("timm") is None, reason="needs timm: make test-encoders"),
]


def shipped_recipes() -> list[Any]:
    """The names of the shipped recipes, as parameters; those with an encoder of timm have its marks."""
    kinds = {name: find_recipe(name).network.kind for name in shipped("recipes")}
    return [pytest.param(name, marks=NEEDS_TIMM if kind == "timm_unet" else ()) for name, kind in kinds.items()]


# Where a run on several workers begins, so that none of these is left for the end.
LONGEST = (
    "local/test_run.py",
    "tracking/test_registry.py",
    "tracking/test_history.py",
    "tuning/test_search.py",
    "training/test_survival.py",
    "steps/test_neighborhood.py",
    "common/test_faults.py",
    "tracking/test_searches.py",
    "tracking/test_turmoil.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files first that take longest."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints doesn't depend on how busy the machine is; tests of heartbeats set a pace of their own."""
    monkeypatch.setattr("backdrop.common.progress.HEARTBEAT_S", 1e6)


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in a test's process doesn't change what later ones' processes import."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests share is made before a test has a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKDROP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("BACKDROP_TRACKING", "off")
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave nothing in the cache of whoever runs them, and make no MLflow store where they run."""
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("BACKDROP_TRACKING", "off")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Makes a new folder that is a disk of this size (as `mount` takes it) while the block lasts."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """The block runs as a user with no rights of its own: root, who may run the tests, reads everything.

    Paths must be relative, because pytest's own folders are closed to others.
    """
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


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


def draw_dataset(folder: Path, objects: int, views: int) -> Path:
    """A dataset of so many objects and views."""
    for index in range(objects):
        for view in range(views):
            draw_pair(folder, f"car{index:02d}_{view + 1:02d}", 100 * index + view)
    return folder


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Makes a dataset of so many objects and views, and gives its folder."""

    def make(objects: int = 6, views: int = 2, name: str = "data") -> Path:
        return draw_dataset(tmp_path / name, objects, views)

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


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, tuple[str, ...]], str]:
    """Trains a member of a fold of `data` and `plan`, once for all tests of a worker."""
    from backdrop.steps.train import train  # loads torch

    folder = tmp_path_factory.mktemp("trained")
    data, plan = draw_dataset(folder / "data", 6, 2), folder / "plan.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))))

    @cache
    def member(fold: int, overrides: tuple[str, ...]) -> str:
        return train(str(data), str(plan), "tiny", fold, tempfile.mkdtemp(dir=folder), overrides).address

    return member


@pytest.fixture
def trained_pair(
    trained_once: Callable[[int, tuple[str, ...]], str], tmp_path: Path
) -> Callable[[tuple[str, ...]], list[str]]:
    """Gives a tiny member with these overrides for each fold of `plan`, trained on `data`, in folders of the test."""

    def make(overrides: tuple[str, ...]) -> list[str]:
        return [str(shutil.copytree(trained_once(k, overrides), tmp_path / f"m{k}")) for k in (0, 1)]

    return make


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a new MLflow store in a folder, a copy of one that all workers share: creating one takes seconds."""
    from backdrop.tracking.store import prepare  # as slow to import as mlflow

    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "new-store"
    prepare(shared / "mlflow.db")

    def make(folder: Path) -> Path:
        shutil.copytree(shared, folder, dirs_exist_ok=True)
        prepare(folder / "mlflow.db")
        return folder

    return make


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], Path]) -> Iterator[str]:
    """The address of an MLflow server."""
    from tests.fakes.mlflow import local_server  # as slow to import as mlflow

    with local_server(make_store(tmp_path_factory.mktemp("mlflow"))) as address:
        yield address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    from botocore.loaders import JSONFileLoader
    from moto.server import ThreadedMotoServer  # takes a second, which most tests needn't wait for

    # Tests have clients of their own, which would read botocore's descriptions of S3 again, for a tenth of a second.
    read = cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
    JSONFileLoader.load_file = lambda _, file_path: read(file_path)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3_address(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server with one empty bucket, `photos`, which `AWS_ENDPOINT_URL` doesn't name yet."""
    import boto3

    from backdrop.common import s3_client

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "BACKDROP_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="photos")
    s3_client.client.cache_clear()
    yield s3_server
    s3_client.client.cache_clear()


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket in S3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    return "s3://photos"


@pytest.fixture
def kept_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets training leave its last checkpoints, as if it was killed just before its end."""
    from backdrop.training.checkpoint_store import CheckpointStore  # slow: imports torch

    clear = CheckpointStore.clear

    def clear_unfinished(store: CheckpointStore) -> None:  # what --fresh discards has no record any more
        if not (store.folder.parent / RECORD).is_file():
            clear(store)

    monkeypatch.setattr(CheckpointStore, "clear", clear_unfinished)


# What makes the smallest recipe train in a second: the tests' own overrides.
SMALL = (
    *("epochs=2", "input.size=64x32", "network.width=4", "network.depth=2", "batch_size=2", "ema=null"),
    "loss={kind: bce_dice}",  # at this size a band around the boundary is most of the product
)

# A space for a world in which a trial takes a second.
SPACE = """
name: small
set: {input.size: 64x32, network.width: 4, network.depth: 2, batch_size: 1, ema: null, checkpoint.every_steps: 1}
presets: [linknet34-faithful]
families:
  - {kind: cosine, lr: [3e-3, 3e-2], floor: [1e-2, 0.1]}
  - {kind: cycle, lr: [3e-3, 3e-2], factor: [0.05, 0.7], rounds: [2, 8], warmup: [0, 0.5]}
"""


def draw_cars(folder: Path) -> tuple[Path, Path]:
    """A dataset of enough views that an epoch has some steps, and its plan: two folds, one object held out."""
    data, plan = draw_dataset(folder / "cars", objects=5, views=6), folder / "cars.csv"
    plan.write_bytes(dump_plan(make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))))
    return data, plan


@pytest.fixture
def cars(tmp_path: Path) -> tuple[Path, Path]:
    return draw_cars(tmp_path)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path
