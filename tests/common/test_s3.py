"""S3's settings and listings: what boto3 refuses is one line, and folders' markers are no files."""

import os
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from backdrop.common import outputs, s3, s3_client, storage
from backdrop.common.errors import ConfigError, StorageError
from backdrop.data.photographs import find_photographs
from tests.fakes.http import JsonHandler, running

DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_ENDPOINT_URL": "minio:9000"},
        {"AWS_ENDPOINT_URL": "http://"},
        {"AWS_PROFILE": "nobody"},
        {"AWS_CONFIG_FILE": "{folder}/bad.cfg"},
        {"AWS_CONFIG_FILE": "{folder}/flat.cfg"},
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
        outputs.remove,
        lambda address: storage.write_bytes(address, b"x"),
    ],
    ids=["list_files", "read_bytes", "exists", "local_folder", "remove", "write_bytes"],
)
def test_settings_that_boto3_refuses(
    settings: dict[str, str], call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.cfg").write_text("[default\nregion=")
    (tmp_path / "flat.cfg").write_text("[default]\ns3 = virtual")
    whole = {"AWS_ENDPOINT_URL": DEAD, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hunter2", **settings}
    for name, value in whole.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    monkeypatch.setattr(s3_client, "POLICY", s3_client.RetryPolicy(0, 0, attempts=1))
    s3_client.client.cache_clear()
    with pytest.raises(StorageError) as caught:
        call("s3://photos/cars")  # type: ignore[operator]  # each of them takes an address
    s3_client.client.cache_clear()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ("", "http://s3.example/photos/a.jpg"),
        ("s3 =\n    max_concurrent_requests = 4", "http://s3.example/photos/a.jpg"),
        ("s3 =\n    addressing_style = virtual", "http://photos.s3.example/a.jpg"),
    ],
)
def test_addresses_are_of_the_style_that_boto3s_file_names(
    settings: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers take no other; the default is what most others want."""
    (tmp_path / "config").write_text(f"[default]\n{settings}\n")
    whole = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_ENDPOINT_URL": "http://s3.example"}
    for name, value in {**whole, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    s3_client.client.cache_clear()
    for uploads in (False, True):
        signed = s3_client.client(uploads).generate_presigned_url("get_object", {"Bucket": "photos", "Key": "a.jpg"})
        assert signed.partition("?")[0] == url
    s3_client.client.cache_clear()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>", "AccessDenied"),
        (404, b"not found", "invalid XML received"),
    ],
)
def test_a_role_that_is_not_granted(
    status: int, body: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service account's role is asked for at the endpoint too, as MinIO grants roles there."""

    class Sts(JsonHandler):
        def do_POST(self) -> None:  # noqa: N802  # http.server's name
            self.body()
            self.reply(status, body)

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("a token of the service account")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/photos")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with running(ThreadingHTTPServer(("127.0.0.1", 0), Sts)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        s3_client.client.cache_clear()
        with pytest.raises(StorageError, match=rf"can't be used with these settings \(.*{words}.*the keys or the role"):
            storage.list_files("s3://photos/cars")
        s3_client.client.cache_clear()


@pytest.mark.parametrize(
    "use",
    [
        s3.read,
        s3.read_version,
        s3.head,
        s3.delete,
        lambda address: s3.write(address, b"x"),
        lambda address: s3.write_if(address, b"x", None),
        lambda address: s3.upload(Path(__file__), address),
    ],
)
@pytest.mark.parametrize("address", ["s3://photos", "s3://photos/"])
def test_a_bucket_is_no_object(use: Callable[[str], object], address: str, bucket: str) -> None:
    with pytest.raises(
        StorageError, match=rf"^{address} is a bucket, not a file\. Name a file in it, as s3://photos/FILE"
    ):
        use(address)


def test_a_name_that_no_bucket_has_is_refused_in_a_line(bucket: str) -> None:
    for name in ("my photos", "photös", "x" * 256):
        with pytest.raises(StorageError, match=r"^S3 can't have a bucket named '") as caught:
            storage.list_files(f"s3://{name}/x")
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("address", ["https://", "http:///x", "https://:8080/x"])
def test_a_url_without_a_host_is_refused(address: str) -> None:
    with pytest.raises(StorageError, match=rf"{address} has no host\. Write it as https://host/file"):
        storage.read_bytes(address)


def test_markers_of_folders_are_passed_over(bucket: str) -> None:
    client = boto3.client("s3")
    for key, body in {"a/b": b"", "a/b/c.txt": b"c", "a/d/": b"", "a/d/e.txt": b"e", "a/empty.txt": b""}.items():
        client.put_object(Bucket="photos", Key=key, Body=body)
    assert storage.list_files(f"{bucket}/a") == ["b/c.txt", "d/e.txt", "empty.txt"]
    assert (storage.local_folder(f"{bucket}/a") / "b" / "c.txt").read_text() == "c"


def test_photographs_below_the_marker_of_their_folder_are_found(bucket: str) -> None:
    client = boto3.client("s3")
    for key, body in {"a": b"", "a/b.jpg": b"b", "c": b"c", "c/d.jpg": b"d", "e": b""}.items():
        client.put_object(Bucket="photos", Key=key, Body=body)
    names = {key: [source.name for source in find_photographs([f"{bucket}/{key}"], ())[0]] for key in "ace"}
    assert names == {"a": ["b.jpg"], "c": ["c"], "e": ["e"]}


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
    s3_client.client.cache_clear()
    with pytest.raises(ConfigError, match=f"^{name} has a space, a line break or a special character") as caught:
        storage.list_files("s3://photos/x")
    assert "hunter2" not in str(caught.value)


def put(name: str, body: bytes, **rest: object) -> None:
    boto3.client("s3").put_object(Bucket="photos", Key=f"cars/{name}", Body=body, **rest)


def test_a_damaged_object_is_named(bucket: str) -> None:
    put("a.jpg", b"photograph", Metadata={"sha256": "0" * 64})
    with pytest.raises(StorageError, match=r"photos/cars/a\.jpg is damaged: its content differs .*\. Upload it again"):
        storage.local_folder(f"{bucket}/cars")


@pytest.mark.parametrize("times", [1, 2])
def test_a_download_that_differs_from_its_etag_is_repeated(
    times: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was an error of the line; the same content twice is what the server has, whatever its ETag means."""
    put("a.jpg", b"photograph")
    copy, bad = s3._copy, iter([b"phot\0graph"] * times)

    def torn(address: str, etag: str, target: Path) -> s3._Copy:
        done = copy(address, etag, target)
        if data := next(bad, b""):
            target.write_bytes(data)
            return s3._Copy(len(data), "other", "other", None)
        return done

    monkeypatch.setattr(s3, "_copy", torn)
    content = (storage.local_folder(f"{bucket}/cars") / "a.jpg").read_bytes()
    assert content == (b"photograph" if times == 1 else b"phot\0graph")


def test_an_object_that_changes_meanwhile_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg", b"photograph")
    listing = s3.listing

    def late(address: str) -> list[tuple[str, int, str]]:
        entries = listing(address)
        put("a.jpg", b"another photograph")
        return entries

    monkeypatch.setattr(s3, "listing", late)
    with pytest.raises(StorageError, match=r"photos/cars/a\.jpg changed while it was copied\. Run the command again"):
        storage.local_folder(f"{bucket}/cars")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"photo"), Path.unlink], ids=["torn", "removed"])
def test_a_copy_that_was_changed_is_made_again(
    damage: Callable[[Path], object], bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        put(name, b"photograph")
    folder = storage.local_folder(f"{bucket}/cars")
    other = (folder / "b.jpg").stat()
    damage(folder / "a.jpg")
    assert storage.local_folder(f"{bucket}/cars") == folder
    assert (folder / "a.jpg").read_bytes() == b"photograph"
    assert (folder / "b.jpg").stat() == other
    assert capsys.readouterr().err == f"{folder}/a.jpg has changed since it was copied; copying 1 file again\n"


class PageHandler(JsonHandler):
    """Answers everything with a web page, as S3's console, a login, and what leads to https do."""

    status = 200

    def _answer(self) -> None:
        self.body()
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", "13")
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        if self.status != 200:
            self.send_header("Location", f"https://ada:hunter2@s3.example{self.path}?state=hunter2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"<html></html>")

    do_GET = do_PUT = do_HEAD = do_POST = _answer  # noqa: N815  # http.server's names


@pytest.mark.parametrize("status", [200, 301, 302, 307, 308])
def test_a_web_page_is_not_taken_for_s3(status: int, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (PageHandler,), {"status": status})
    with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3_client.client.cache_clear()
        where = "" if status == 200 else " that leads to https://s3.example"
        for call in (
            storage.list_files,
            storage.read_bytes,
            storage.exists,
            lambda address: find_photographs([address], []),
            s3.read_version,
            lambda address: storage.write_bytes(address, b"x"),
        ):
            with pytest.raises(StorageError, match=f"^{endpoint} answers as S3 with a web page{where}\\. Set AWS_"):
                call("s3://photos/cars")


def test_a_web_page_in_s3_is_read(bucket: str) -> None:
    s3_client.client().put_object(Bucket="photos", Key="index.html", Body=b"<html>", ContentType="text/html")
    assert storage.exists(f"{bucket}/index.html")
    assert storage.read_bytes(f"{bucket}/index.html") == b"<html>"


def test_an_empty_page_that_answers_a_removal_is_no_web_page(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Google's answer is, also where an upload in parts is given up."""

    def removed(handler: JsonHandler) -> None:
        handler.send_response(204)
        handler.send_header("Content-Type", "text/html; charset=UTF-8")
        handler.end_headers()

    with running(ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (JsonHandler,), {"do_DELETE": removed}))) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{one.server_port}")
        s3_client.client.cache_clear()
        s3.delete("s3://photos/car")
        s3_client.client().abort_multipart_upload(Bucket="photos", Key="car", UploadId="1")
