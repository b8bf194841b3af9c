"""S3's settings and listings: what boto3 refuses is one line, and folders' markers are no files."""

from pathlib import Path

import boto3
import pytest

from backdrop.common import s3, storage
from backdrop.common.errors import ConfigError, StorageError

DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_ENDPOINT_URL": "minio:9000"},
        {"AWS_ENDPOINT_URL": "http://"},
        {"AWS_PROFILE": "nobody"},
        {"AWS_CONFIG_FILE": "{folder}/bad.cfg"},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_DEFAULT_REGION": "eu central"},
    ],
    ids=lambda settings: next(iter(settings)) + "=" + next(iter(settings.values())),
)
@pytest.mark.parametrize(
    "call",
    [
        storage.list_files,
        storage.read_bytes,
        storage.exists,
        storage.local_folder,
        storage.remove_folder,
        lambda address: storage.write_bytes(address, b"x"),
    ],
    ids=["list_files", "read_bytes", "exists", "local_folder", "remove_folder", "write_bytes"],
)
def test_settings_that_boto3_refuses(
    settings: dict[str, str], call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.cfg").write_text("[default\nregion=")
    whole = {"AWS_ENDPOINT_URL": DEAD, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hunter2", **settings}
    for name, value in whole.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    monkeypatch.setattr(s3, "POLICY", s3.RetryPolicy(0, 0, attempts=1))
    s3.client.cache_clear()
    with pytest.raises(StorageError) as caught:
        call("s3://photos/cars")  # type: ignore[operator]  # each of them takes an address
    s3.client.cache_clear()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_markers_of_folders_are_passed_over(bucket: str) -> None:
    client = boto3.client("s3")
    for key, body in {"a/b": b"", "a/b/c.txt": b"c", "a/d/": b"", "a/d/e.txt": b"e", "a/empty.txt": b""}.items():
        client.put_object(Bucket="photos", Key=key, Body=body)
    assert storage.list_files(f"{bucket}/a") == ["b/c.txt", "d/e.txt", "empty.txt"]
    assert (storage.local_folder(f"{bucket}/a") / "b" / "c.txt").read_text() == "c"


def test_an_object_with_content_is_no_folder(bucket: str) -> None:
    client = boto3.client("s3")
    for key in ("a/b", "a/b/c.txt"):
        client.put_object(Bucket="photos", Key=key, Body=b"x")
    with pytest.raises(StorageError, match=r"a/b is an object, and other objects lie below it as in a folder\. Rename"):
        storage.local_folder(f"{bucket}/a")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_key_with_a_line_break_is_named_but_not_shown(
    name: str, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Secret made from a file ends in a line break, and boto3 would show the whole header."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv(name, "hunter2xyzzy\n")
    s3.client.cache_clear()
    with pytest.raises(ConfigError, match=f"^{name} has a space, a line break or a special character") as caught:
        storage.list_files("s3://photos/x")
    assert "hunter2" not in str(caught.value)
