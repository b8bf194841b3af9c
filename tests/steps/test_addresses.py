"""Errors name what was copied from S3 by its address: no remedy helps at a copy in the cache."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common import storage
from backdrop.common.errors import BackdropError
from backdrop.inference.member import METRICS, RECORD, WEIGHTS
from backdrop.steps.estimate import estimate
from backdrop.steps.label import label
from backdrop.steps.members import open_member
from backdrop.steps.next import next as choose
from backdrop.steps.predict import predict
from tests.conftest import SMALL, draw_pair


@pytest.fixture
def member(trained_pair: Callable[[tuple[str, ...]], list[str]]) -> Path:
    return Path(trained_pair(SMALL)[0])


def words(act: Callable[[], object]) -> str:
    """What the error says that `act` ends with."""
    with pytest.raises(BackdropError) as raised:
        act()
    assert str(storage.cache_folder()) not in str(raised.value)
    return str(raised.value)


def upload(folder: Path, address: str) -> str:
    storage.upload_folder(folder, address, "")
    return address


def test_datasets(data: Path, plan: Path, member: Path, bucket: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")

    def labeling(address: str) -> str:
        return words(lambda: label(address, str(plan), [str(member)], out))

    bare = upload(data, f"{bucket}/bare")
    assert labeling(bare).startswith(f"{bare}/test has no photographs")
    assert words(lambda: choose(bare, "models:/cars@champion", out)).startswith(f"{bare}/test has no photographs")
    shutil.copytree(data / "train", data / "test")
    placed = upload(data, f"{bucket}/placed")
    assert labeling(placed).startswith(f"{placed}/test/")
    copy = min((data / "train").glob("*.jpg"))
    shutil.rmtree(data / "test")
    (data / "test").mkdir()
    shutil.copy(copy, data / "test" / "again_01.jpg")
    again = upload(data, f"{bucket}/again")
    twins = f"{again}/test/again_01.jpg is the same photograph as {again}/train/{copy.name}"
    assert labeling(again).startswith(twins)
    draw_pair(data, copy.stem, 99)
    other = upload(data, f"{bucket}/other")
    assert f"but {other} is" in labeling(other)
    shutil.rmtree(data / "train_masks")
    unlabeled = upload(data, f"{bucket}/unlabeled")
    assert words(lambda: estimate(unlabeled)).startswith(f"{unlabeled} has no photograph with a mask")
    shutil.copytree(data / "train", data / "train" / "more")
    both = upload(data / "train", f"{bucket}/both")
    assert words(lambda: predict([both, f"{both}/more"], out, members=[str(member)])).count(f"{both}/") == 2


@pytest.mark.parametrize("file", [RECORD, WEIGHTS, METRICS])
def test_members(member: Path, bucket: str, file: str) -> None:
    (member / file).write_bytes(b"x")
    address = upload(member, f"{bucket}/member")
    assert words(lambda: open_member(address).history()).startswith(address)
