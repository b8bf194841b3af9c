"""Sends decisions about models, and failed pipeline tasks, to a webhook: JSON that Slack understands, signed.

The address and the secret come from the environment. A message that can't be sent is one line in the log, and costs
seconds: it never fails what it is about.
"""

import contextlib
import hashlib
import hmac
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit

from backdrop.common.environment import check_header
from backdrop.common.errors import BackdropError, ConfigError, shorten
from backdrop.common.owner import actor
from backdrop.common.progress import log
from backdrop.common.redact import is_http
from backdrop.common.retry import RetryPolicy, retry
from backdrop.common.words import now
from backdrop.config.records import Record
from backdrop.evaluation.gate import Verdict
from backdrop.tracking import version_page
from backdrop.tracking.ledger import Entry, Event

ADDRESS, SECRET = "BACKDROP_WEBHOOK_URL", "BACKDROP_WEBHOOK_SECRET"
SIGNATURE, TIMESTAMP = "X-Backdrop-Signature-256", "X-Backdrop-Timestamp"
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # what MLflow's client and boto3 read, and Python's own doesn't
ANSWER_S, LIMIT_S = 5.0, 12.0  # for an answer, and for all attempts together
POLICY = RetryPolicy(pause_s=1.0, max_pause_s=1.0, attempts=2)
WORDS = {
    "promoted": "is the champion",
    "rejected": "was rejected",
    "rolled back": "is the champion again, and held",
    "held": "is held",
    "released": "was released",
}


class Message(Record):
    """What the webhook receives, as JSON.

    Attributes:
        text: a sentence, in Slack's markup.
        event: what happened, as in the history; or `failed`, for a task of a pipeline.
        model: the registered model; None for a task.
        version: the version that it is about.
        champion: the champion before it; None if there was none.
        task: the task that failed; None for a decision.
        verdict: the gate's, without its slices; None if a person decided.
        reason: the gate's or a person's, or the error of a task.
        actor: the person or machine that acted.
        time: when, in ISO 8601 with the offset from UTC.
        link: the version's page in MLflow; None without a server.
    """

    text: str
    event: Event | Literal["failed"]
    model: str | None = None
    version: int | None = None
    champion: int | None = None
    task: str | None = None
    verdict: Verdict | None = None
    reason: str
    actor: str
    time: str
    link: str | None = None


def send_decision(model: str, entry: Entry) -> None:
    """Sends an entry of a model's history, if it decides something and there is a webhook.

    Args:
        model: the registered model.
        entry: the entry, valid and mirrored.
    """
    if entry.event == "registered" or not os.environ.get(ADDRESS):
        return
    reason, link = shorten(entry.reason), version_page(model, entry.version)
    sentence = f"{model}: version {entry.version} {WORDS[entry.event]}{_champion(entry)}"
    text = _escape(f"{sentence}{': ' if reason else ''}{reason} ({entry.actor})")
    _send(
        Message(
            text=f"{text}\n{link}" if link else text,
            event=entry.event,
            model=model,
            version=entry.version,
            champion=entry.champion,
            verdict=entry.verdict,
            reason=reason,
            actor=entry.actor,
            time=entry.time,
            link=link,
        )
    )


@contextlib.contextmanager
def failure_sent(task: str) -> Iterator[None]:
    """Sends an error that ends the block, and lets it pass on.

    Args:
        task: the name of the pipeline's task.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if os.environ.get(ADDRESS):
            reason = shorten(str(error) if isinstance(error, BackdropError | SystemExit) else repr(error))
            text = _escape(f"Task {task} of a pipeline failed: {reason} ({actor()})")
            _send(Message(text=text, event="failed", task=task, reason=reason, actor=actor(), time=now()))
        raise


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a message: HMAC-SHA256 of `TIMESTAMP.BODY`, as GitHub writes it.

    Args:
        secret: what sender and receiver share.
        timestamp: seconds since 1970, as in its header.
        body: the message.
    """
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _champion(entry: Entry) -> str:
    if entry.champion is None or entry.champion == entry.version:
        return ""
    number = f"version {entry.champion}"
    return f", {number} stays the champion" if entry.event == "rejected" else f", instead of {number}"


def _escape(text: str) -> str:
    """Slack's escapes, without which `<!channel>` in a reason would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _send(message: Message) -> None:
    """Sends in a thread, because nothing else bounds the time of a name's look-up or of a slow answer."""
    body = message.model_dump_json(exclude={"verdict": {"slices"}}).encode()
    failures = [f"no answer within {LIMIT_S:.0f} s"]

    def send() -> None:
        try:
            retry(lambda: _post(body), POLICY, _may_pass)
            failures.clear()
        except Exception as error:
            failures[0] = shorten(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if failures:
        log(f"The webhook in {ADDRESS} didn't take the message ({failures[0]})")


def _post(body: bytes) -> None:
    address, secret = os.environ[ADDRESS], os.environ.get(SECRET)
    check_header(ADDRESS, address)
    if not is_http(address) or urlsplit(address).username is not None:
        raise ConfigError(f"{ADDRESS} isn't an address such as https://HOST/PATH, without a user", f"Fix {ADDRESS}")
    timestamp = str(int(time.time()))
    headers = {"Content-Type": "application/json", "User-Agent": "backdrop", TIMESTAMP: timestamp}
    if secret:
        headers[SIGNATURE] = sign(secret, timestamp, body)
    request = urllib.request.Request(address, body, headers)  # noqa: S310  # the scheme was checked
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_trusted()), _NoRedirects)
    try:
        opener.open(request, timeout=ANSWER_S).close()
    except HTTPError as error:
        error.close()
        raise


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would turn into a GET without the message."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _trusted() -> ssl.SSLContext:
    """Trusts the system's authorities, or those of SSL_CERT_FILE, and those of the bundles that are named."""
    context = ssl.create_default_context()
    for bundle in filter(None, map(os.environ.get, BUNDLES)):
        context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
    return context


def _may_pass(error: Exception) -> bool:
    """Whether a second attempt may succeed."""
    return error.code >= 500 or error.code == 429 if isinstance(error, HTTPError) else isinstance(error, OSError)
