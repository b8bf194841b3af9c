"""Names from outside: none that leads anywhere else ever becomes a path."""

import contextlib
import random
import string
from pathlib import Path

import boto3
import pytest

from backdrop.common import outputs, s3, storage
from backdrop.common.errors import BackdropError, StorageError
from backdrop.common.names import checked_name
from backdrop.inference.member import MemberRecord
from backdrop.steps.members import open_member

HOSTILE = [
    "../x",
    "a/../../x",
    "/etc/x",
    "a//x",
    "..",
    ".",
    "",
    "a/./x",
    "a\\..\\x",
    "C:\\x",
    "x\0",
    "a\nb",
    "x" * 256,
    "é" * 128,
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_that_leads_elsewhere_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(StorageError, match=r"leads out of the folder|with a slash|can't be a file's name") as caught:
        checked_name(name, "s3://photos")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("name", ["a", "a/b.jpg", "é ü/..x", "...", ".hidden", "x" * 255])
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert checked_name(name, "s3://photos") == name


def test_a_folder_is_no_file_name() -> None:
    assert checked_name("a" * 64, "tag", folders=False)
    with pytest.raises(StorageError, match="tag has 'a/b', which leads out"):
        checked_name("a/b", "tag", folders=False)


def draw_name(chance: random.Random) -> str:
    """A name of parts that are hostile or not."""
    parts = ["..", ".", "", "a", "member.json", "é", "\\", "..\\x", "x" * 300, "\x01", "~", "$HOME", "%2e%2e"]
    return "/".join(chance.choice([*parts, chance.choice(string.ascii_letters)]) for _ in range(chance.randint(1, 4)))


def test_hostile_keys_never_lead_out_of_a_folder(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the keys below a prefix are, copies of it write nothing but below the cache."""
    yard = tmp_path / "yard"
    monkeypatch.setenv("BACKDROP_CACHE", str(yard / "deep" / "er" / "cache"))
    chance, client = random.Random(0), boto3.client("s3")
    names = {draw_name(chance) for _ in range(60)} | {"m/../../../x", "m//abs"}
    for number, name in enumerate(sorted(name for name in names if len(name) < 900)):
        client.put_object(Bucket="photos", Key=f"{number}/m/{name}", Body=b"x")
        address = f"{bucket}/{number}/m"
        for read in (storage.local_folder, storage.list_files, open_member):
            with contextlib.suppress(BackdropError):
                read(address)
    written = [path.relative_to(yard / "deep" / "er") for path in yard.rglob("*") if path.is_file()]
    assert written
    assert all(path.parts[0] == "cache" for path in written)
    assert not (tmp_path / "x").exists()


def test_an_inventory_from_outside_names_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    entry = outputs.Entry(storage.sha256(b"mine"), 4)
    (out / outputs.INVENTORY).write_bytes(outputs.Inventory("train", "a", {"../mine.txt": entry}).dump())
    for call in (outputs.remove, lambda place: outputs.Claim(place, "train", "a")):
        with pytest.raises(StorageError, match=r"has '\.\./mine\.txt', which leads out of the folder"):
            call(out)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_member_is_named_by_a_recipe_not_by_a_path() -> None:
    with pytest.raises(ValueError, match=r"string_pattern_mismatch|should match pattern"):
        MemberRecord.model_validate({"recipe": "../../x"})


def test_objects_are_listed_whatever_they_are_named(bucket: str) -> None:
    boto3.client("s3").put_object(Bucket="photos", Key="a/../x", Body=b"x")
    assert [item.name for item in s3.objects(f"{bucket}/a")] == ["../x"]
