"""S3 by boto3: one client for all threads, calls with retries, and errors that say what to do.

Credentials and endpoint come from boto3's own sources (environment, mounted files), never from an argument.
"""

import contextlib
import http
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from backdrop.common.environment import check_bundles, check_header
from backdrop.common.errors import StorageError, shorten
from backdrop.common.redact import without_credentials
from backdrop.common.retry import RetryPolicy, retry

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15  # without a byte
UPLOAD_TIMEOUT_S = 60  # a slow line is still sending what the system has already taken
POLICY = RetryPolicy(pause_s=0.5, max_pause_s=4.0, give_up_s=45.0, jitter=True)
UNREACHABLE_S = 15.0  # the policy's `give_up_s` if nothing accepts connections: most often the address is wrong
BUCKET = re.compile(r"[\w.-]{1,255}", re.ASCII)  # as boto3 takes them
ENDPOINT = re.compile(r" (on|to the|from) endpoint URL: .*", re.DOTALL)  # in boto3's messages
DENIED = ("AccessDenied", "403")  # error codes; the answer to a HEAD has no body with a code in words
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject or s3:ListBucket",  # the latter if the object doesn't exist
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}

T = TypeVar("T")


def split(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        StorageError: if it has no bucket, or one that S3 can't have, or has credentials.
    """
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if (bare := without_credentials(address)) != address:
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        raise StorageError(f"The address {bare} contains credentials", remedy)
    if not bucket:
        raise StorageError(f"{address} has no bucket", "Write it as s3://bucket/prefix")
    if not BUCKET.fullmatch(bucket):
        raise StorageError(f"S3 can't have a bucket named {shorten(repr(bucket))}", "Write it as s3://bucket/prefix")
    return bucket, key


def split_file(address: str) -> tuple[str, str]:
    """Bucket and key of an object's address.

    Raises:
        StorageError: as `split`, or if it is that of a bucket.
    """
    bucket, key = split(address)
    if not key:
        raise StorageError(f"{address} is a bucket, not a file", f"Name a file in it, as s3://{bucket}/FILE")
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
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
    except ImportError as error:
        raise StorageError("s3:// needs boto3, which isn't installed", "Run pip install 'backdrop-ml[s3]'") from error
    limits = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
    )
    try:
        core = botocore.session.Session()
        core.set_default_client_config(limits)  # for servers that give out credentials too
        own = core.get_component("config_store").get_config_variable("s3") or {}
        # Checksums only where required: many S3-compatible servers don't support the newer ones.
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 3 if uploads else 1},  # `call` has more
            read_timeout=UPLOAD_TIMEOUT_S if uploads else READ_TIMEOUT_S,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": own.get("addressing_style", "path")},
        )
        session = boto3.Session(botocore_session=core)
        if credentials := session.get_credentials():
            keys = credentials.get_frozen_credentials()
            check_header("AWS_ACCESS_KEY_ID", keys.access_key)
            check_header("AWS_SECRET_ACCESS_KEY", keys.secret_key)
            check_header("AWS_SESSION_TOKEN", keys.token)
        made = session.client("s3", config=config)
        if made.meta.endpoint_url.startswith("https:"):
            check_bundles("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        # With the star it is called before botocore follows where the answer leads.
        made.meta.events.register("needs-retry.s3.*", partial(_refuse_page, made.meta.endpoint_url))
        return made
    # Of a role that isn't granted, of what answers in the place of STS, of a file's `s3 = …` without keys below it, and
    # of an endpoint that isn't a URL.
    except (BotoCoreError, ClientError, ResponseParserError, AttributeError, ValueError) as error:
        remedy = "Check AWS_ENDPOINT_URL (http://…), AWS_PROFILE, the keys or the role, the region and boto3's files"
        raise StorageError(f"S3 can't be used with these settings ({shorten(error)})", remedy) from error


def _refuse_page(url: str, operation: Any, response: Any, **_: Any) -> None:
    """Refuses a web page as an answer: a console's, a login's, or one that leads to https.

    boto3 takes an object to exist by it and a listing to be empty, and follows where it leads without end.

    Raises:
        StorageError: if the answer is one. What S3 answers without an ETag is XML.
    """
    deletes = operation.http["method"] == "DELETE"  # an upload that is given up, too: some answer with an empty page
    if response is None or deletes or response[0].status_code >= http.HTTPStatus.BAD_REQUEST:
        return
    headers = response[0].headers
    if headers.get("content-type", "").startswith("text/html") and "etag" not in headers:
        to = urlsplit(headers.get("location", ""))
        target = f" that leads to {to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else ""
        what = f"{without_credentials(url)} answers as S3 with a web page{target}"
        raise StorageError(what, "Set AWS_ENDPOINT_URL to S3's own address, not that of its console or of a login")


def call(address: str, function: Callable[[], T]) -> T:
    """The result of a call; temporary errors are retried, also in the middle of a response.

    Raises:
        StorageError: if S3 rejects the call, or keeps failing.
    """
    client()  # raises its errors before `_errors` imports boto3's

    def call_once() -> T:
        with _errors(address):
            return function()

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
    busy = status_of(error) == http.HTTPStatus.TOO_MANY_REQUESTS or _code(error) == "RequestTimeout"
    failing = status_of(error) >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    return _is_silent(error) or isinstance(error, broken) or busy or failing


def _is_silent(error: BaseException | None) -> bool:
    """Whether S3 accepted the connection, but the answer didn't come, or broke off."""
    from botocore.exceptions import HTTPClientError

    return isinstance(error, HTTPClientError)


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether no connection could be made: nothing listens there, or the name is unknown."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError

    return isinstance(error, ConnectTimeoutError | EndpointConnectionError | ProxyConnectionError)


def status_of(error: BaseException | None) -> int:
    """The HTTP status of S3's response; 0 if there is none."""
    response = getattr(error, "response", None)
    return int(response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(response, dict) else 0


def _code(error: BaseException | None) -> str:
    """The error code in S3's response; empty if there is none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
