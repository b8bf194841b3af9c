"""S3 by boto3: objects that carry their own sha256, and a server that may stumble.

Credentials and endpoint come from boto3's own places (environment, mounted files), never from an argument.
"""

import contextlib
import hashlib
import http
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from backdrop.common.errors import StorageError, shorten
from backdrop.common.redact import without_credentials
from backdrop.common.retry import RetryPolicy, retry, workers

THREADS = 8
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
POLICY = RetryPolicy(pause_s=0.5, max_pause_s=4.0, attempts=5, jitter=True)  # beyond what boto3 does itself
DIGEST = "sha256"  # the name under which an object carries its own

T = TypeVar("T")


def read(address: str) -> bytes:
    """An object's content, compared with the sha256 that it carries, if it does.

    Raises:
        StorageError: if there is no such object, it isn't what was written, or S3 doesn't answer.
    """
    bucket, key = split(address)

    def once() -> tuple[bytes, str | None]:
        answer = client().get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), _small(answer["Metadata"]).get(DIGEST)

    data, digest = _asked(address, once)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(f"{address} is not what was written there", "Write it again")
    return data


def write(address: str, data: bytes) -> None:
    """Writes an object.

    Raises:
        StorageError: if S3 doesn't take it.
    """
    bucket, key = split(address)
    metadata = {DIGEST: hashlib.sha256(data).hexdigest()}
    _asked(address, lambda: client().put_object(Bucket=bucket, Key=key, Body=data, Metadata=metadata))


def upload(path: Path, address: str) -> bool:
    """Uploads a file, in parts if it's large, unless S3 has it already.

    Returns:
        Whether it had to be uploaded.

    Raises:
        StorageError: if S3 doesn't take it.
    """
    bucket, key = split(address)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (metadata(address) or {}).get(DIGEST) == digest:
        return False
    extra = {"Metadata": {DIGEST: digest}}
    _asked(address, lambda: client().upload_file(str(path), bucket, key, ExtraArgs=extra))
    return True


def download(address: str, names: Sequence[str], folder: Path) -> None:
    """Copies objects below a prefix into a new folder.

    Raises:
        StorageError: if one can't be read, or its name would leave the folder.
    """
    bucket, prefix = split(address)

    def one(name: str) -> None:
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise StorageError(f"{address} holds an object named {name}", "Rename it: it would leave its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        key = f"{prefix.rstrip('/')}/{name}".lstrip("/")
        _asked(f"{address}/{name}", lambda: client().download_file(bucket, key, str(target)))

    folder.mkdir(parents=True)
    with workers(THREADS) as pool:
        list(pool.map(one, names))


def listing(address: str) -> list[tuple[str, int, str]]:
    """Name below the prefix, size and ETag of every object, sorted.

    Raises:
        StorageError: if S3 doesn't answer.
    """
    bucket, key = split(address)
    prefix = f"{key.rstrip('/')}/" if key else ""
    pager = client().get_paginator("list_objects_v2")
    pages = _asked(address, lambda: list(pager.paginate(Bucket=bucket, Prefix=prefix)))
    entries = [entry for page in pages for entry in page.get("Contents", [])]
    found = [(entry["Key"].removeprefix(prefix), entry["Size"], entry["ETag"]) for entry in entries]
    return sorted(entry for entry in found if entry[0] and not entry[0].endswith("/"))


def delete(address: str) -> None:
    """Deletes an object, which needn't be there.

    Raises:
        StorageError: if S3 doesn't do it.
    """
    bucket, key = split(address)
    _asked(address, lambda: client().delete_object(Bucket=bucket, Key=key))


def metadata(address: str) -> dict[str, str] | None:
    """What an object carries, names in small letters; None if there is no such object.

    Raises:
        StorageError: if S3 doesn't answer.
    """
    bucket, key = split(address)
    try:
        return _small(_asked(address, lambda: client().head_object(Bucket=bucket, Key=key)["Metadata"]))
    except StorageError as error:
        if _status(error.__cause__) == http.HTTPStatus.NOT_FOUND:
            return None
        raise


def split(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        StorageError: if it names no bucket.
    """
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if (bare := without_credentials(address)) != address:
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        raise StorageError(f"{bare} was given with credentials", remedy)
    if not bucket:
        raise StorageError(f"{address} names no bucket", "Write it as s3://bucket/prefix")
    return bucket, key


@cache
def client() -> Any:
    """The one client, which threads may share.

    Raises:
        StorageError: if boto3 isn't installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StorageError("s3:// needs boto3, which isn't installed", "pip install 'backdrop-ml[s3]'") from error
    # Checksums only where the protocol demands them: many S3 look-alikes refuse or garble the newer ones.
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )
    return boto3.client("s3", config=config)


def _asked(address: str, call: Callable[[], T]) -> T:
    """What S3 answers; it's asked again after a pause if it stumbles, also in the middle of an answer.

    Raises:
        StorageError: if it says no, or stumbles again and again.
    """
    client()  # says that boto3 isn't installed, before its errors are imported

    def once() -> T:
        with _errors(address):
            return call()

    return retry(once, POLICY, lambda error: isinstance(error, StorageError) and _stumbled(error.__cause__))


@contextlib.contextmanager
def _errors(address: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        remedy = "Check the address, AWS_ENDPOINT_URL and the credentials in the environment"
        cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
        raise StorageError(f"{address}: S3 says: {shorten(error)}", remedy) from cause


def _stumbled(error: BaseException | None) -> bool:
    """Whether asking again may help: S3 is busy or broken, or the connection is."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    broken = HTTPClientError | IncompleteReadError | ResponseStreamingError | RetriesExceededError
    return isinstance(error, broken) or _status(error) >= http.HTTPStatus.INTERNAL_SERVER_ERROR


def _status(error: BaseException | None) -> int:
    """The HTTP status of S3's answer, 0 if the error isn't one."""
    answer = getattr(error, "response", None)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(answer, dict) else 0


def _small(carried: dict[str, str]) -> dict[str, str]:
    """Names in small letters: some servers send capitals."""
    return {name.lower(): value for name, value in carried.items()}
