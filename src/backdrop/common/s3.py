"""S3 by boto3, with the sha256 of each object in its metadata, and retries.

Credentials and endpoint come from boto3's own sources (environment, mounted files), never from an argument.
"""

import contextlib
import hashlib
import http
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from backdrop.common.environment import check_header
from backdrop.common.errors import StorageError, shorten
from backdrop.common.names import checked_name
from backdrop.common.redact import without_credentials
from backdrop.common.retry import RetryPolicy, retry, workers

THREADS = 8
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15  # without a byte
UPLOAD_TIMEOUT_S = 60  # a slow line is still sending what the system has already taken
LARGE = 2**20  # bytes of an object that a slow line sends for seconds
POLICY = RetryPolicy(pause_s=0.5, max_pause_s=4.0, give_up_s=45.0, jitter=True)
UNREACHABLE_S = 15.0  # the policy's `give_up_s` if nothing accepts connections: most often the address is wrong
DIGEST = "sha256"  # metadata key of an object's sha256
BLOCK = 2**20  # bytes in memory of each download
MD5 = re.compile(r"[0-9a-f]{32}")
ENDPOINT = re.compile(r" (on|to the|from) endpoint URL: .*", re.DOTALL)  # in boto3's messages
DENIED = ("AccessDenied", "403")  # error codes; the answer to a HEAD has no body with a code in words
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject or s3:ListBucket",  # the latter if the object doesn't exist
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
LOCK = ".backdrop.lock"  # the name of a prefix's lock (common/lock.py), which no listing shows

T = TypeVar("T")


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
    bucket, key = split(address)

    def call_once() -> tuple[bytes, str | None]:
        response = client().get_object(Bucket=bucket, Key=key)
        return response["Body"].read(), _lower_keys(response["Metadata"]).get(DIGEST)

    data, digest = _with_retries(address, call_once)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(f"{address} is damaged: its sha256 differs from its metadata", "Upload it again")
    return data


def write(address: str, data: bytes) -> None:
    """Writes an object.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split(address)
    metadata = {DIGEST: hashlib.sha256(data).hexdigest()}
    sender = client(uploads=True) if len(data) > LARGE else client()
    _with_retries(address, lambda: sender.put_object(Bucket=bucket, Key=key, Body=data, Metadata=metadata))


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
    bucket, key = split(address)

    def call_once() -> Version:
        response = client().get_object(Bucket=bucket, Key=key)
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return Version(response["Body"].read(), response["ETag"], (now - response["LastModified"]).total_seconds())

    try:
        return _with_retries(address, call_once)
    except StorageError as error:
        if _status(error.__cause__) == http.HTTPStatus.NOT_FOUND:
            return None
        raise


def write_if(address: str, data: bytes, etag: str | None) -> bool:
    """Writes an object if it doesn't exist (None), or if it has this ETag; servers without conditions always write.

    Returns:
        Whether it was written.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split(address)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    try:
        _with_retries(address, lambda: client().put_object(Bucket=bucket, Key=key, Body=data, **condition))
    except StorageError as error:
        status = _status(error.__cause__)
        if status in (http.HTTPStatus.PRECONDITION_FAILED, http.HTTPStatus.CONFLICT):
            return False
        if etag and status == http.HTTPStatus.NOT_FOUND:
            return False
        if status != http.HTTPStatus.NOT_IMPLEMENTED:
            raise
        _with_retries(address, lambda: client().put_object(Bucket=bucket, Key=key, Body=data))
    return True


def upload(path: Path, address: str) -> bool:
    """Uploads a file, in parts if it's large, unless S3 already has it.

    Returns:
        Whether it was uploaded.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split(address)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (metadata(address) or {}).get(DIGEST) == digest:
        return False
    extra = {"Metadata": {DIGEST: digest}}
    _with_retries(address, lambda: client(uploads=True).upload_file(str(path), bucket, key, ExtraArgs=extra))
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
    bucket, key = split(address)

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
        return _with_retries(address, call_once)
    except StorageError as error:
        if _status(error.__cause__) == http.HTTPStatus.PRECONDITION_FAILED:
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
        page = _with_retries(address, partial(client().list_objects_v2, **query))
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


def delete(address: str) -> None:
    """Deletes an object, if it exists.

    Raises:
        StorageError: if S3 rejects it or doesn't respond.
    """
    bucket, key = split(address)
    _with_retries(address, lambda: client().delete_object(Bucket=bucket, Key=key))


def metadata(address: str) -> dict[str, str] | None:
    """An object's metadata, with lowercase names; None if it doesn't exist.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    state = head(address)
    return state and state.metadata


def head(address: str) -> Head | None:
    """What S3 knows of an object; None if it doesn't exist.

    Raises:
        StorageError: if S3 doesn't respond.
    """
    bucket, key = split(address)
    try:
        answer = _with_retries(address, lambda: client().head_object(Bucket=bucket, Key=key))
        return Head(int(answer["ContentLength"]), answer["LastModified"], _lower_keys(answer["Metadata"]))
    except StorageError as error:
        if _status(error.__cause__) == http.HTTPStatus.NOT_FOUND:
            return None
        raise


def split(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        StorageError: if it has no bucket, or has credentials.
    """
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if (bare := without_credentials(address)) != address:
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        raise StorageError(f"The address {bare} contains credentials", remedy)
    if not bucket:
        raise StorageError(f"{address} has no bucket", "Write it as s3://bucket/prefix")
    return bucket, key


@cache
def client(uploads: bool = False) -> Any:
    """The S3 client, shared by threads.

    A server that accepts connections and never answers ends a call after 15 seconds, and its retries after 75. Uploads
    are more patient, with retries of each part; they begin only after the server has answered another call.

    Args:
        uploads: whether it is for uploads of large objects.

    Raises:
        StorageError: if boto3 isn't installed, or can't use its settings.
    """
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise StorageError("s3:// needs boto3, which isn't installed", "Run pip install 'backdrop-ml[s3]'") from error
    limits = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
    )
    # Checksums only where required: many S3-compatible servers don't support the newer ones.
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 3 if uploads else 1},  # `_with_retries` has more
        read_timeout=UPLOAD_TIMEOUT_S if uploads else READ_TIMEOUT_S,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )
    try:
        core = botocore.session.Session()
        core.set_default_client_config(limits)  # for servers that give out credentials too
        session = boto3.Session(botocore_session=core)
        if credentials := session.get_credentials():
            keys = credentials.get_frozen_credentials()
            check_header("AWS_ACCESS_KEY_ID", keys.access_key)
            check_header("AWS_SECRET_ACCESS_KEY", keys.secret_key)
            check_header("AWS_SESSION_TOKEN", keys.token)
        return session.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that isn't a URL
        remedy = "Check AWS_ENDPOINT_URL (http://…), AWS_PROFILE, the keys, the region and boto3's files"
        raise StorageError(f"S3 can't be used with these settings ({shorten(error)})", remedy) from error


def _with_retries(address: str, call: Callable[[], T]) -> T:
    """The result of a call; temporary errors are retried, also in the middle of a response.

    Raises:
        StorageError: if S3 rejects the call, or keeps failing.
    """
    client()  # raises its errors before `_errors` imports boto3's

    def call_once() -> T:
        with _errors(address):
            return call()

    def connect_and_call() -> T:
        policy = replace(POLICY, give_up_s=min(POLICY.give_up_s, UNREACHABLE_S))
        return retry(call_once, policy, lambda error: _is_unreachable(error.__cause__))

    return retry(connect_and_call, POLICY, lambda error: _is_temporary(error.__cause__))


@contextlib.contextmanager
def _errors(address: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
        if right := _missing_right(cause):
            bucket, _ = split(address)
            what = f"{address} can't be used: bucket {bucket} denies {right} to the credentials in the environment"
            raise StorageError(what, "Grant them this right, or use others") from cause
        if _is_unreachable(cause) or _is_silent(cause):
            endpoint = without_credentials(client().meta.endpoint_url)
            what = f"{address}: S3 at {endpoint} doesn't answer ({shorten(ENDPOINT.sub('', str(cause)))})"
            raise StorageError(what, "Check AWS_ENDPOINT_URL, and that the server runs") from cause
        remedy = "Check the address, AWS_ENDPOINT_URL and the credentials in the environment"
        raise StorageError(f"{address}: S3 says: {shorten(error)}", remedy) from cause


def _missing_right(error: BaseException) -> str:
    """The right that a refused call needs; empty if it wasn't refused for want of a right."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError) or _code(error) not in DENIED:
        return ""
    return RIGHTS.get(error.operation_name, f"s3:{error.operation_name}")


def _is_temporary(error: BaseException | None) -> bool:
    """Whether a retry may help: S3 is overloaded or failing, or the connection broke."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    broken = IncompleteReadError | ResponseStreamingError | RetriesExceededError
    busy = _status(error) == http.HTTPStatus.TOO_MANY_REQUESTS or _code(error) == "RequestTimeout"
    failing = _status(error) >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    return _is_silent(error) or isinstance(error, broken) or busy or failing


def _is_silent(error: BaseException | None) -> bool:
    """Whether S3 accepted the connection, but the answer didn't come, or broke off."""
    from botocore.exceptions import HTTPClientError

    return isinstance(error, HTTPClientError)


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether no connection could be made: nothing listens there, or the name is unknown."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError

    return isinstance(error, ConnectTimeoutError | EndpointConnectionError | ProxyConnectionError)


def _status(error: BaseException | None) -> int:
    """The HTTP status of S3's response; 0 if there is none."""
    response = getattr(error, "response", None)
    return int(response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(response, dict) else 0


def _code(error: BaseException | None) -> str:
    """The error code in S3's response; empty if there is none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _lower_keys(values: dict[str, str]) -> dict[str, str]:
    """The metadata with lowercase names, because some servers change their case."""
    return {name.lower(): value for name, value in values.items()}
