"""One process at a time writes an output: the second is refused in one line, and a killed one's work is resumed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common.errors import StorageError
from backdrop.common.lock import hold
from backdrop.config import Budget
from backdrop.steps.evaluate import evaluate
from backdrop.steps.import_ import ImportOptions, import_photos
from backdrop.steps.label import label
from backdrop.steps.predict import predict
from backdrop.steps.train import train
from backdrop.steps.tune import tune
from tests.conftest import SMALL

LONG = (*SMALL, "checkpoint.every_steps=1")
ENDLESS = ("epochs=10000", "schedule=[{kind: constant, epochs: 1, lr: 1e-3}]")
RUN = "import sys; from backdrop.steps.train import train; train(*sys.argv[1:3], 'tiny', 0, sys.argv[3], sys.argv[4:])"


# What S3 adds is the lock itself: tests/common/test_lock.py.
@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_two_trainers_of_one_folder(
    remote: bool, data: Path, plan: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = f"{request.getfixturevalue('bucket')}/member" if remote else str(tmp_path / "member")
    settings = (*LONG, *ENDLESS)
    with subprocess.Popen([sys.executable, "-c", RUN, str(data), str(plan), out, *settings], env=os.environ) as first:
        while not list(tmp_path.glob("**/checkpoints/[0-9]*")):
            assert first.poll() is None
            time.sleep(0.1)
        for overrides in (settings, SMALL):  # the same member, and another one
            with pytest.raises(
                StorageError, match=rf"in use by `backdrop train` \(process {first.pid} on .*another --out"
            ):
                train(str(data), str(plan), "tiny", 0, out, overrides)
        first.kill()
    # Its lock is taken over at once.
    assert train(str(data), str(plan), "tiny", 0, out, SMALL, fresh=True).member.epochs == 2


@pytest.mark.parametrize(
    "step",
    [
        lambda out: evaluate("data", "plan.csv", ["member"], out),
        lambda out: label("data", "plan.csv", ["member"], out),
        lambda out: predict("photos", out, members=["member"]),
    ],
    ids=["evaluate", "label", "predict"],
)
def test_two_of_one_output(step: Callable[[str], object], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with hold(out, "predict", beside=True), pytest.raises(StorageError, match="out is in use by `backdrop predict`"):
        step(out)
    assert list(tmp_path.iterdir()) == []


def test_two_imports_of_one_folder(data: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with (
        hold(out, "import", beside=True),
        pytest.raises(StorageError, match=r"out is in use by `backdrop import`.*another OUT"),
    ):
        import_photos(str(data / "train"), out, ImportOptions())


def test_two_searches_of_one_folder(data: Path, plan: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "search")
    with hold(out, "tune"), pytest.raises(StorageError, match="search is in use by `backdrop tune`"):
        tune(str(data), str(plan), "tiny", out, Budget(trials=8), overrides=SMALL[1:])
    assert list(tmp_path.glob("search/*")) == []
