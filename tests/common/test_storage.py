import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backdrop.common import outputs, s3, s3_client, storage, temporary
from backdrop.common.errors import StorageError
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.photographs import find_photographs
from backdrop.steps.split import split
from backdrop.steps.train import train
from tests.conftest import SMALL


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.txt"
    storage.write_bytes(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"a\.txt can't be written \(No space left on device\)\. Free some space"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_processes_write_one_file_at_a_time_and_none_fails(tmp_path: Path) -> None:
    path, ready = tmp_path / "a.txt", tmp_path / "ready"
    code = f"""
import time
from pathlib import Path
from typing import Any
from backdrop.common.storage import write_bytes
while not Path({str(ready)!r}).exists():
    time.sleep(0.01)
for number in range(1000):
    write_bytes({str(path)!r}, bytes([number % 256]) * 10)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    ready.touch()
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert path.read_bytes() == bytes([999 % 256]) * 10
    assert sorted(tmp_path.iterdir()) == [path, ready]


def test_a_large_folder_is_not_listed_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(temporary.LARGE + 1):
        (tmp_path / f"{number}.png").touch()
    left = tmp_path / ".backdrop.new.png.12345678"  # by a killed process
    left.mkdir()
    listed, scandir = [], os.scandir

    def noted(path: Any) -> Any:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    for name in ("new.png", *(f"more-{number}.png" for number in range(20))):
        storage.write_bytes(tmp_path / name, b"new")
    assert listed.count(str(tmp_path)) == 1
    assert not left.exists()


def test_an_output_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def half_way() -> None:
        with outputs.output_folder(target, "sample", "key.json") as folder:
            (folder / "a").write_text("a")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with outputs.output_folder(target, "sample", "key.json") as folder:
            (folder / "key.json").write_text(content)
            (folder / content).write_text("")
    assert sorted(path.name for path in target.iterdir()) == [".backdrop.json", "key.json", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").write_text("dear")
    with (
        pytest.raises(StorageError, match=r"out exists and is not the output of an earlier run"),
        outputs.output_folder(tmp_path / "out", "sample", "key.json"),
    ):
        pass
    assert (tmp_path / "out" / "holiday.jpg").read_text() == "dear"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere can't be read \(No such file"):
        storage.read_bytes(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="can't be read"):
        storage.read_bytes("http://127.0.0.1:9/weights")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        storage.write_bytes(tmp_path / "file" / "below", b"")


@pytest.mark.parametrize("address", ["", " "])
@pytest.mark.parametrize(
    "read", [storage.read_bytes, storage.local_folder, lambda address: find_photographs([address], ())]
)
def test_an_empty_address_is_not_the_current_folder(read: Callable[[str], object], address: str) -> None:
    with pytest.raises(StorageError, match="An address is empty"):
        read(address)


@pytest.mark.parametrize("address", ["gs://photos/x", "S3://photos/x", "s3:/photos/x", "s3a://photos", " s3://photos"])
@pytest.mark.parametrize(
    "read", [storage.read_bytes, storage.local_folder, lambda address: find_photographs([address], ())]
)
def test_an_address_in_another_scheme_is_no_path(read: Callable[[str], object], address: str) -> None:
    with pytest.raises(StorageError, match=f"'{address}' can't be read. Name a file, a folder or an s3:// address"):
        read(address)


def test_folders_that_vanish_while_files_are_listed_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "kept.json").touch()
    ended = threading.Event()

    def write_and_remove() -> None:
        while not ended.is_set():
            (tmp_path / "trial" / "checkpoints" / "new").mkdir(parents=True)
            shutil.rmtree(tmp_path / "trial")

    with ThreadPoolExecutor(1) as other:
        done = other.submit(write_and_remove)
        try:
            for _ in range(500):
                assert storage.list_files(tmp_path) == ["kept.json"]
        finally:
            ended.set()
        done.result()


def test_a_dataset_in_s3_is_copied_once_and_again_when_it_changes(bucket: str, data: Path, tmp_path: Path) -> None:
    address = f"{bucket}/cars/set"
    storage.upload_folder(data, address, "")
    first = open_dataset(address)
    assert list(first.photos) == list(open_dataset(data).photos)
    assert first.root.is_relative_to(tmp_path / "cache")
    stamp = first.root.stat().st_mtime_ns
    assert open_dataset(address).root == first.root
    assert first.root.stat().st_mtime_ns == stamp
    storage.write_bytes(f"{address}/train/car09_01.jpg", (data / "train" / "car00_01.jpg").read_bytes())
    second = open_dataset(address)
    assert second.root != first.root
    assert "car09_01" in second.photos


def test_what_the_cache_refuses_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "file" / "cache"))
    for place, says in ((storage.cache_folder() / "a", True), (tmp_path / "file" / "a", False)):
        with pytest.raises(StorageError, match=f"^{place} can't be written") as raised:
            storage.write_bytes(place, b"")
        assert ("or set BACKDROP_CACHE to a folder elsewhere" in str(raised.value)) is says


def test_plans_and_members_can_live_in_s3(bucket: str, data: Path, tmp_path: Path) -> None:
    split(str(data), f"{bucket}/plan.csv", Rule(folds=2, holdout=0.15))
    record = train(str(data), f"{bucket}/plan.csv", "tiny", 0, f"{bucket}/members/{{key}}", (*SMALL, "epochs=1"))
    assert record.address == f"{bucket}/members/{record.member.key[:12]}"
    names = {name for name, *_ in s3.listing(record.address)}
    assert {"member.json", "weights.safetensors", "recipe.yaml", "metrics.jsonl"} <= names


def test_s3_errors_name_the_address_and_the_remedy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"s3://photos/none has no objects"):
        storage.local_folder(f"{bucket}/none")
    with pytest.raises(StorageError, match=r"s3://elsewhere/x: S3 says: .*bucket does not exist"):
        storage.read_bytes("s3://elsewhere/x")
    with pytest.raises(StorageError, match=r"has no bucket"):
        storage.read_bytes("s3:///x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3_client.client.cache_clear()
    with pytest.raises(StorageError, match=r"s3://photos/x: .*\(Could not connect\)\. Check AWS_ENDPOINT_URL"):
        storage.read_bytes(f"{bucket}/x")


def test_an_object_cannot_leave_its_folder(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/set/../../evil.jpg", b"x")
    with pytest.raises(StorageError, match="leads out of the folder"):
        storage.local_folder(f"{bucket}/set")
