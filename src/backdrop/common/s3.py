"""Objects in S3, with the sha256 of each in its metadata."""

import hashlib
import http
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from backdrop.common.errors import StorageError
from backdrop.common.names import checked_name
from backdrop.common.retry import workers
from backdrop.common.s3_client import call, client, split, split_file, status_of

THREADS = 8
LARGE = 2**20  # bytes of an object that a slow line sends for seconds
DIGEST = "sha256"  # metadata key of an object's sha256
BLOCK = 2**20  # bytes in memory of each download
MD5 = re.compile(r"[0-9a-f]{32}")
LOCK = ".backdrop.lock"  # the name of a prefix's lock (common/lock.py), which no listing shows


class Object(NamedTuple):
    """An object below a prefix: its name there, its size in bytes, its ETag, and when it was last written."""

    name: str
    size: int
    etag: str
    modified: datetime


class Head(NamedTuple):
    """An object's size in bytes, when it was last written, and its metadata with lowercase names."""

    size: int
    modified: datetime
    metadata: dict[str, str]


def read(address: str) -> bytes:
    """An object's content, verified with the sha256 in its metadata, if there is one.

    Raises:
        StorageError: if it doesn't exist, is damaged, or S3 doesn't respond.
    """
    bucket, key = split_file(address)

    def call_once() -> tuple[bytes, str | None]:
        response = client().get_object(Bucket=bucket, Key=key)
        return response["Body"].read(), _lower_keys(response["Metadata"]).get(DIGEST)

    data, digest = call(address, call_once)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(f"{address} is damaged: its sha256 differs from its metadata", "Upload it again")
    return data


def write(address: str, data: bytes) -> None:
    """Writes an object.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split_file(address)
    metadata = {DIGEST: hashlib.sha256(data).hexdigest()}
    sender = client(uploads=True) if len(data) > LARGE else client()
    call(address, lambda: sender.put_object(Bucket=bucket, Key=key, Body=data, Metadata=metadata))


@dataclass(frozen=True)
class Version:
    """An object's content with its ETag, and its age in seconds by the server's clock."""

    data: bytes
    etag: str
    age_s: float


def read_version(address: str) -> Version | None:
    """An object with its ETag and age; None if it doesn't exist.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    bucket, key = split_file(address)

    def call_once() -> Version:
        response = client().get_object(Bucket=bucket, Key=key)
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return Version(response["Body"].read(), response["ETag"], (now - response["LastModified"]).total_seconds())

    try:
        return call(address, call_once)
    except StorageError as error:
        if status_of(error.__cause__) == http.HTTPStatus.NOT_FOUND:
            return None
        raise


def write_if(address: str, data: bytes, etag: str | None) -> bool:
    """Writes an object if it doesn't exist (None), or if it has this ETag; servers without conditions always write.

    Returns:
        Whether it was written.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split_file(address)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    try:
        call(address, lambda: client().put_object(Bucket=bucket, Key=key, Body=data, **condition))
    except StorageError as error:
        status = status_of(error.__cause__)
        if status in (http.HTTPStatus.PRECONDITION_FAILED, http.HTTPStatus.CONFLICT):
            return False
        if etag and status == http.HTTPStatus.NOT_FOUND:
            return False
        if status != http.HTTPStatus.NOT_IMPLEMENTED:
            raise
        call(address, lambda: client().put_object(Bucket=bucket, Key=key, Body=data))
    return True


def upload(path: Path, address: str) -> bool:
    """Uploads a file, in parts if it's large, unless S3 already has it.

    Returns:
        Whether it was uploaded.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split_file(address)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    known = head(address)
    if known and known.metadata.get(DIGEST) == digest:
        return False
    extra = {"Metadata": {DIGEST: digest}}
    call(address, lambda: client(uploads=True).upload_file(str(path), bucket, key, ExtraArgs=extra))
    return True


def download(address: str, entries: Sequence[tuple[str, int, str]], folder: Path) -> None:
    """Copies objects below a prefix into a new folder, and verifies them.

    Args:
        address: the prefix.
        entries: name, size and ETag of each object, as `listing` returns them.
        folder: the new folder.

    Raises:
        StorageError: if an object can't be read, has changed or is damaged, or its name leads out of the folder.
    """

    def fetch(entry: tuple[str, int, str]) -> None:
        target = folder / checked_name(entry[0], address)
        target.parent.mkdir(parents=True, exist_ok=True)
        _download_verified(f"{address.rstrip('/')}/{entry[0]}", entry, target)

    folder.mkdir(parents=True)
    with workers(THREADS) as pool:
        list(pool.map(fetch, entries))


def _download_verified(address: str, entry: tuple[str, int, str], target: Path) -> None:
    """Copies an object, verified by its own sha256, or else by its size and its ETag if that is an MD5.

    Some servers' ETags look like an MD5 and aren't: content that comes twice alike is what the server has.
    """
    _, size, etag = entry
    md5 = etag.strip('"') if MD5.fullmatch(etag.strip('"')) else None
    earlier = None
    for _ in range(2):
        copy = _copy(address, etag, target)
        expected = (size, copy.metadata, None) if copy.metadata else (size, None, md5)
        actual = (copy.size, copy.metadata and copy.sha256, copy.md5 if expected[2] else None)
        if actual == expected or (copy == earlier and not copy.metadata and copy.size == size):
            return
        earlier = copy
    raise StorageError(f"{address} is damaged: its content differs from its sha256, size or ETag", "Upload it again")


@dataclass(frozen=True)
class _Copy:
    """What was copied: size in bytes, digests, and the sha256 in the object's metadata, if any."""

    size: int
    sha256: str
    md5: str
    metadata: str | None


def _copy(address: str, etag: str, target: Path) -> _Copy:
    bucket, key = split_file(address)

    def call_once() -> _Copy:
        response = client().get_object(Bucket=bucket, Key=key, IfMatch=etag)
        size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with target.open("wb") as file:
            for block in response["Body"].iter_chunks(BLOCK):
                size += file.write(block)
                sha256.update(block)
                md5.update(block)
        metadata = _lower_keys(response["Metadata"]).get(DIGEST)
        return _Copy(size, sha256.hexdigest(), md5.hexdigest(), metadata)

    try:
        return call(address, call_once)
    except StorageError as error:
        if status_of(error.__cause__) == http.HTTPStatus.PRECONDITION_FAILED:
            raise StorageError(f"{address} changed while it was copied", "Run the command again") from error
        raise


def objects(address: str) -> Iterator[Object]:
    """The objects below a prefix, as S3 lists them, without those that mark a folder by a `/` at their end.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    bucket, key = split(address)
    prefix = f"{key.rstrip('/')}/" if key else ""
    query: dict[str, str] | None = {"Bucket": bucket, "Prefix": prefix}
    while query:
        page = call(address, partial(client().list_objects_v2, **query))
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):
                name = entry["Key"].removeprefix(prefix)
                yield Object(name, entry["Size"], entry["ETag"], entry["LastModified"])
        query = {**query, "ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None


def listing(address: str) -> list[Object]:
    """The objects below a prefix, sorted by name.

    Empty objects that only mark a folder are left out: those whose name ends in `/` or begins another's as a folder.

    Raises:
        StorageError: if S3 doesn't respond, or an object with content is named as a folder of others.
    """
    listed = list(objects(address))
    folders = {parent.as_posix() for name, *_ in listed for parent in PurePosixPath(name).parents}
    for name, size, *_ in listed:
        if name in folders and size:
            what = f"{address.rstrip('/')}/{name} is an object, and other objects lie below it as in a folder"
            raise StorageError(what, "Rename or delete the object")
    return sorted(entry for entry in listed if entry.name not in folders and PurePosixPath(entry.name).name != LOCK)


def is_file(address: str) -> bool:
    """Whether an object exists, other than an empty one that marks a folder of others.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    state = head(address)
    return state is not None and (state.size > 0 or next(objects(address), None) is None)


def delete(address: str) -> None:
    """Deletes an object, if it exists.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split_file(address)
    call(address, lambda: client().delete_object(Bucket=bucket, Key=key))


def head(address: str) -> Head | None:
    """What S3 knows of an object; None if it doesn't exist.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    bucket, key = split_file(address)
    try:
        answer = call(address, lambda: client().head_object(Bucket=bucket, Key=key))
        return Head(int(answer["ContentLength"]), answer["LastModified"], _lower_keys(answer["Metadata"]))
    except StorageError as error:
        if status_of(error.__cause__) == http.HTTPStatus.NOT_FOUND:
            return None
        raise


def _lower_keys(values: dict[str, str]) -> dict[str, str]:
    """The metadata with lowercase names, because some servers change their case."""
    return {name.lower(): value for name, value in values.items()}
