"""What is ours is replaced and removed; what is anybody else's never is. The same on disk and in S3."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import pytest

from backdrop.common import output_file, outputs, storage
from backdrop.common.errors import DataError, StorageError
from backdrop.common.outputs import INVENTORY, Claim, output_folder
from backdrop.common.temporary import temporary_beside
from backdrop.evaluation.records import SPEED, read_speed
from backdrop.steps.sample import sample
from tests.conftest import another_user, small_disk

KEY = "key.json"


@pytest.fixture(params=["folder", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address at which nothing is."""
    return f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out")


def put(address: str, data: bytes = b"mine") -> None:
    """Writes a file as anybody would, without our metadata."""
    if address.startswith("s3://"):
        bucket, _, key = address.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)
    else:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        Path(address).write_bytes(data)


def fill(address: str, files: dict[str, bytes], step: str = "sample") -> None:
    with output_folder(address, step, KEY) as folder:
        for name, data in {**files, KEY: b"{}"}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def content(address: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(f"{address}/{name}") for name in storage.list_files(address)}


def test_an_output_is_found_with_or_without_a_slash(out: str) -> None:
    fill(out, {SPEED: b'{"device": "cpu", "threads": 1, "photographs": 1, "size": "1x1", "seconds": {}}'})
    assert outputs.is_output(out)
    assert outputs.is_output(f"{out}/")
    assert read_speed(out) == read_speed(f"{out}/")


def test_another_sample_is_not_replaced(out: str) -> None:
    sample(out, 1, 1, "64x64")
    for address in (out, f"{out}/"):
        with pytest.raises(DataError, match="another sample"):
            sample(address, 1, 1, "64x64", seed=1)


def test_ours_is_replaced_as_a_whole(out: str) -> None:
    fill(out, {"a": b"1", "deep/b": b"2"})
    fill(out, {"a": b"3", "c": b"4"})
    assert content(out) == {"a": b"3", "c": b"4", KEY: b"{}"}
    outputs.find_place(out).remove("a")
    fill(out, {"a": b"3", "c": b"4"})
    assert content(out) == {"a": b"3", "c": b"4", KEY: b"{}"}


@pytest.mark.parametrize("name", ["a", KEY, "notes.txt", "deep/er/x", INVENTORY, ".hidden"])
def test_a_folder_with_anything_else_is_refused(out: str, name: str) -> None:
    put(f"{out}/{name}")
    with pytest.raises(StorageError, match=r"is not the output of an earlier run|is not an inventory of Backdrop"):
        outputs.require(out, "sample")
    with pytest.raises(StorageError, match=r"Move it, or use another place\.$"):
        fill(out, {"a": b"1"})
    assert storage.read_bytes(f"{out}/{name}") == b"mine"


def test_what_came_to_ours_is_not_touched(out: str) -> None:
    fill(out, {"a": b"1"})
    put(f"{out}/deep/mine")
    with pytest.raises(StorageError, match="holds deep/mine, which `backdrop sample` didn't write"):
        fill(out, {"a": b"2"})
    outputs.remove(out)
    assert content(out) == {"deep/mine": b"mine"}


@pytest.mark.parametrize("data", [b"2", b"two"], ids=["same size", "other size"])
def test_what_changed_is_not_touched(out: str, data: bytes) -> None:
    fill(out, {"a": b"1"})
    put(f"{out}/a", data)
    with pytest.raises(StorageError, match="/a has changed since Backdrop wrote it"):
        fill(out, {"a": b"2"})
    outputs.remove(out)
    assert content(out) == {"a": data}


def test_another_steps_output_is_refused(out: str) -> None:
    fill(out, {"a": b"1"})
    with pytest.raises(StorageError, match="holds the output of `backdrop sample`"):
        fill(out, {"a": b"1"}, "predict")


def test_a_change_during_the_work_is_noticed(out: str) -> None:
    def work() -> None:
        with output_folder(out, "sample", KEY) as folder:
            (folder / KEY).write_bytes(b"{}")
            put(f"{out}/mine")

    with pytest.raises(StorageError, match="is not the output of an earlier run"):
        work()
    assert content(out) == {"mine": b"mine"}


def test_a_claim_writes_beside_other_files_but_not_over_them(out: str) -> None:
    put(f"{out}/notes.txt")
    put(f"{out}/taken")
    claim = Claim(out, "train", KEY)
    claim.write({"a": b"1", "deep/b": b"2"})
    with pytest.raises(StorageError, match="/taken exists, and Backdrop didn't write it"):
        claim.reserve("taken")
    with pytest.raises(StorageError, match="/taken exists, and Backdrop didn't write it"):
        claim.write({"b": b"3", "taken": b"4"})
    claim.write({"a": b"5"})
    assert content(out) == {"notes.txt": b"mine", "taken": b"mine", "a": b"5", "deep/b": b"2"}
    put(f"{out}/deep/b", b"mine")
    with pytest.raises(StorageError, match="deep/b has changed"):
        Claim(out, "train", KEY)
    with pytest.raises(StorageError, match="deep/b has changed"):
        claim.write({"deep/b": b"6"})
    claim.clear()
    assert content(out) == {"notes.txt": b"mine", "taken": b"mine", "deep/b": b"mine"}


def test_a_claim_that_was_killed_while_it_wrote_goes_on(out: str) -> None:
    Claim(out, "train", KEY).record({"a": outputs.Entry(storage.sha256(b"1"), 1)})
    claim = Claim(out, "train", KEY)
    claim.write({"a": b"2"})
    claim.seal()
    assert content(out) == {"a": b"2"}


def test_repair_leaves_a_key_file_that_others_put_there(out: str) -> None:
    """A killed step had not written its own yet."""
    Claim(out, "train", KEY).write({"a": b"ours"})
    storage.write_bytes(f"{out}/{KEY}", b"theirs")
    assert outputs.repair(out, "train", ("a", "b", KEY)) == []
    assert storage.read_bytes(f"{out}/{KEY}") == b"theirs"
    outputs.find_place(out).remove(KEY)
    Claim(out, "train", KEY).record({KEY: outputs.Entry(storage.sha256(b"ours"), 4)})
    storage.write_bytes(f"{out}/{KEY}", b"theirs")
    assert outputs.repair(out, "train", ("a", "b", KEY)) == []
    assert storage.read_bytes(f"{out}/{KEY}") == b"theirs"


def test_a_damaged_output_becomes_unfinished_and_what_changed_is_kept(out: str) -> None:
    def repair(step: str = "train") -> list[str]:
        return outputs.repair(out, step, ("a", "b", KEY))

    assert repair() == []
    claim = Claim(out, "train", KEY)
    claim.write({"a": b"1", "b": b"2", "picture": b"3", KEY: b"{}"})
    claim.seal()
    put(f"{out}/picture", b"mine")
    put(f"{out}/notes.txt", b"mine")
    assert repair() == []
    place = outputs.find_place(out)
    place.remove("a")
    put(f"{out}/b", b"two")
    assert repair("tune") == [], "another step's"
    copies = {name: f"{name}.{storage.sha256(data)[:8]}" for name, data in {"b": b"two", "picture": b"mine"}.items()}
    assert repair() == ["a is missing", *(f"{name} has changed (kept as {copy})" for name, copy in copies.items())]
    assert content(out) == {copies["b"]: b"two", copies["picture"]: b"mine", "notes.txt": b"mine"}
    assert repair() == [], "it isn't finished"
    Claim(out, "train", KEY).write({"a": b"1", "b": b"2", KEY: b"{}"})


def test_only_our_own_changed_file_is_set_aside(out: str) -> None:
    put(f"{out}/b", b"mine")
    assert outputs.set_changed_aside(out, "b") is None
    Claim(out, "train", KEY).write({"a": b"1"})
    for name in "abc":
        assert outputs.set_changed_aside(out, name) is None
    put(f"{out}/a", b"2")
    assert outputs.set_changed_aside(out, "a") == f"a.{storage.sha256(b'2')[:8]}"
    assert sorted(content(out).values()) == [b"2", b"mine"]


def test_a_file_is_replaced_only_by_its_like(out: str) -> None:
    def write(data: bytes) -> None:
        output_file.write_file(out, data, lambda there: there.startswith(b"#"), "a list")

    for data in (b"# one", b"# two"):
        write(data)
        assert storage.read_bytes(out) == data
    put(out)
    for call in (lambda: write(b"# three"), lambda: output_file.require_file(out, lambda _: False, "a list")):
        with pytest.raises(StorageError, match=r"/out exists, and it isn't a list that Backdrop wrote"):
            call()
    assert storage.read_bytes(out) == b"mine"


@pytest.mark.parametrize("address", ["", "  ", "gs://bucket/x", "S3://photos/x", "https://host/x", "a\0b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    for call in (outputs.require, lambda place, _: output_file.require_file(place, bool, "a list")):
        with pytest.raises(StorageError, match=r"address is empty|can't be written"):
            call(address, "sample")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://", "has no bucket"),
        ("s3:///x", "has no bucket"),
        ("s3://photos/a/../x", "'a/../x', which leads out of the folder"),
        ("s3://photos//x", "'/x', which begins or ends with a slash, or has two in a row. Leave out the slash"),
        ("s3://photos/a//x", "'a//x', which begins or ends with a slash, or has two in a row. Leave out the slash"),
        ("s3://nobody/x", "bucket does not exist"),
    ],
)
def test_what_is_no_prefix_is_refused(bucket: str, address: str, message: str) -> None:
    with pytest.raises(StorageError, match=re.escape(message)):
        outputs.require(address, "sample")


def test_an_object_is_no_prefix(bucket: str) -> None:
    put(f"{bucket}/out")
    with pytest.raises(StorageError, match="out is an object, not a prefix"):
        outputs.require(f"{bucket}/out/", "sample")


@pytest.mark.parametrize("name", ["", "/", "/plan.csv/", "/lists/plan.csv//"])
def test_a_file_is_no_prefix(bucket: str, name: str) -> None:
    """S3 would take a slash at the end of a name, and every tool would show a folder."""
    with pytest.raises(StorageError, match=r"is a bucket or a prefix\. Name an object for a list, without a slash"):
        output_file.write_file(f"{bucket}{name}", b"1", bool, "a list")
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="photos")


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    places = ["/", "/proc/backdrop", "/sys/backdrop", tmp_path / "file", tmp_path / "file" / "out", tmp_path / "pipe"]
    for place in (*places, tmp_path / ("x" * 300)):
        with pytest.raises(StorageError) as caught:
            outputs.require(place, "sample")
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.parametrize("name", ["file", "pipe", "dangling", "folder/file"])
def test_nothing_is_claimed_where_a_file_s_folder_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "folder").mkdir(parents=True)
    (tmp_path / "out" / "file").write_text("mine")
    (tmp_path / "out" / "folder" / "file").write_text("mine")
    (tmp_path / "out" / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "out" / "pipe")
    with pytest.raises(StorageError, match=rf"out/{name} is not a folder that can be written to\. Move it"):
        Claim(tmp_path / "out", "train", KEY, [f"{name}/deep/a"])
    assert not outputs.is_output(tmp_path / "out")
    Claim(tmp_path / "out", "train", KEY, ["folder/new", "new/deep/a"])


def test_an_object_is_no_folder_of_what_is_claimed(bucket: str) -> None:
    put(f"{bucket}/out/a")
    put(f"{bucket}/out/marker", b"")
    with pytest.raises(StorageError, match="out/a is not a folder that can be written to"):
        Claim(f"{bucket}/out", "train", KEY, ["a/b"])
    Claim(f"{bucket}/out", "train", KEY, ["marker/b", "b"])


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that other users may look into, unlike pytest's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_rights_that_replacing_takes_are_tried_before_the_work(common: Path) -> None:
    if os.geteuid():
        pytest.skip("needs the right to become another user")
    closed, shared, claimed = common / "open" / "closed", common / "shared", common / "claimed"
    for folder in (closed, shared / "out"):
        fill(str(folder), {"a": b"1"})
    (shared / "plan.csv").write_text("a plan")
    (claimed / "deep").mkdir(parents=True)
    for path, mode in {
        closed.parent: 0o777,
        closed: 0o555,
        shared: 0o1777,  # as /tmp
        shared / "out": 0o777,
        claimed: 0o777,
        claimed / "deep": 0o555,
    }.items():
        path.chmod(mode)
    with another_user():
        with pytest.raises(StorageError, match=r"closed can't be written \(Permission denied\)"):
            outputs.require(closed, "sample")
        with pytest.raises(StorageError, match=r"shared/out can't be written \(it is another user's\)"):
            outputs.require(shared / "out", "sample")
        with pytest.raises(StorageError, match=r"shared/plan.csv can't be written \(it is another user's\)"):
            output_file.require_file(shared / "plan.csv", lambda _: True, "a plan")
        with pytest.raises(StorageError, match="claimed/deep is not a folder that can be written to"):
            Claim(claimed, "sample", KEY, ["deep/a"])
        outputs.require(shared / "new", "sample")
        output_file.require_file(shared / "new.csv", bool, "a plan")
    for folder in (closed, shared / "out"):
        outputs.require(folder, "sample")  # its owner may


def test_trying_leaves_nothing(tmp_path: Path, bucket: str) -> None:
    outputs.require(tmp_path / "new" / "deep" / "out", "sample")
    output_file.require_file(tmp_path / "new" / "plan.csv", bool, "a plan")
    outputs.require(f"{bucket}/out", "sample")
    assert [path.name for path in tmp_path.iterdir()] == []
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="photos")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A small disk that is full."""
    disk = tmp_path / "disk"
    with small_disk(disk, "64k"):
        (disk / "ballast").write_bytes(bytes(40_000))
        yield disk


def test_a_full_disk_is_noticed_before_the_work(full: Path) -> None:
    for call in (
        lambda: outputs.require(full / "out", "sample"),
        lambda: output_file.require_file(full / "out", bool, "a plan"),
        lambda: Claim(full / "out", "train", KEY),
    ):
        with pytest.raises(StorageError, match=r"No space left on device\)\. Free some space"):
            call()
    (full / "ballast").unlink()
    with pytest.raises(StorageError, match="disk can't be replaced as a whole: it's a disk"):
        outputs.require(full, "sample")


def test_what_a_file_manager_adds_stays(tmp_path: Path) -> None:
    for files in ({"a": b"1", "deep/b": b"2"}, {"a": b"3"}):
        fill(str(tmp_path / "out"), files)
        for name in (".DS_Store", "deep/Thumbs.db"):
            put(f"{tmp_path}/out/{name}")
    fill(str(tmp_path / "out"), {"a": b"4"})
    assert (tmp_path / "out" / ".DS_Store").read_bytes() == b"mine"
    assert (tmp_path / "out" / "deep" / "Thumbs.db").read_bytes() == b"mine"


def test_a_copy_of_an_output_is_an_output(tmp_path: Path) -> None:
    fill(str(tmp_path / "out"), {"a": b"1", "deep/b": b"2"})
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        path.chmod(0o700)
    fill(str(tmp_path / "copy"), {"c": b"3"})
    assert content(str(tmp_path / "copy")) == {"c": b"3", KEY: b"{}"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    put(str(tmp_path / "yours" / "a"))
    fill(str(tmp_path / "out"), {"deep/a": b"mine"})
    shutil.rmtree(tmp_path / "out" / "deep")
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "yours")
    with pytest.raises(StorageError, match="holds deep, which"):
        fill(str(tmp_path / "out"), {"b": b"1"})
    assert content(str(tmp_path / "yours")) == {"a": b"mine"}


def test_equal_outputs_have_equal_inventories(tmp_path: Path, bucket: str) -> None:
    for place in (str(tmp_path / "a"), str(tmp_path / "b"), f"{bucket}/c"):
        fill(place, {"x": b"1", "y": b"2"})
    one, other, third = (
        storage.read_bytes(f"{place}/{INVENTORY}") for place in (tmp_path / "a", tmp_path / "b", f"{bucket}/c")
    )
    assert one == other == third


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_output_is_back_if_it_can_t_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fill(str(tmp_path / "out"), {"x": b"1"})
    before, replace = content(str(tmp_path)), os.replace

    def fail_once(source: Path, target: Path) -> None:
        if target == tmp_path / "out" and not target.exists():
            monkeypatch.setattr(os, "replace", replace)
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises((KeyboardInterrupt, StorageError)):
        fill(str(tmp_path / "out"), {"x": b"2"})
    assert content(str(tmp_path)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_killed_processes_left_beside_an_output_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".backdrop.out.killed" / "out"
    put(str(left / "part"))
    put(str(tmp_path / ".backdrop.other.xyz" / "part"))
    with output_folder(tmp_path / "out", "sample", KEY) as folder:
        (folder / KEY).write_bytes(b"{}")
        in_use = folder.parent
        with temporary_beside(tmp_path / "out"):
            assert in_use.is_dir(), "another process's, which lives"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".backdrop.other.xyz", "out"]
