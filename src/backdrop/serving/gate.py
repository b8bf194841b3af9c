"""Lets requests in: who may, how many at a time, how large, for how long, and not while the service stops."""

import asyncio
import contextlib
import hashlib
import hmac
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backdrop.serving.problems import ProblemError

GUARDED = "/v1/"  # what else there is, is cheap and tells nothing
DISCARD_S = 5.0  # for the rest of a body that is refused: most clients read an answer only after they have sent all


@dataclass(frozen=True)
class Limits:
    """What one process accepts.

    Attributes:
        requests: how many are inside at once, waiting ones included; more get 429.
        bytes: of a request's body.
        seconds: from a request's first byte to its answer's last.
        tokens: one of which each request must bear; empty for anyone.
    """

    requests: int = 16
    bytes: int = 32_000_000
    seconds: float = 60.0
    tokens: Sequence[str] = ()


class Gate:
    """An ASGI application in front of another.

    Attributes:
        inside: how many requests are under way.
        stopping: whether new requests are refused, because the process is about to end.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.inside = 0
        self.stopping = False
        self._app, self._limits = app, limits
        self._digests = [_digest(token) for token in limits.tokens]
        self._last_s = 1.0  # how long the last request took

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(headers)
        except ProblemError as problem:
            if "expect" not in headers:
                await _discard(receive)
            await problem.response()(scope, receive, send)
            return
        self.inside, began = self.inside + 1, time.monotonic()
        try:
            await self._pass(scope, receive, send)
        finally:
            self.inside, self._last_s = self.inside - 1, time.monotonic() - began

    def _check(self, headers: Headers) -> None:
        if self.stopping:
            remedy = "Send it to another one, or again in a moment"
            raise ProblemError(503, "This server is about to stop", remedy, Retry_After="5", Connection="close")
        if self._digests and not self._knows(headers.get("authorization", "")):
            remedy = "Send a header `Authorization: Bearer TOKEN` with one of the server's tokens"
            raise ProblemError(401, "The request has no valid token", remedy, WWW_Authenticate="Bearer")
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length) > self._limits.bytes:  # h11 takes digits only
            raise self._too_large()
        if self.inside >= self._limits.requests:
            wait = max(1, math.ceil(self._last_s))
            what = f"{self.inside} photographs are being cut out already, as many as this server takes at a time"
            raise ProblemError(429, what, f"Send it again in {wait} s", Retry_After=str(wait))

    def _knows(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        digest = _digest(token.strip())
        known = [hmac.compare_digest(digest, one) for one in self._digests]  # all of them: the time tells nothing
        return scheme.lower() == "bearer" and any(known)

    def _too_large(self) -> ProblemError:
        what = f"The request has more than {self._limits.bytes:,} bytes"
        return ProblemError(413, what, "Send a smaller photograph", Connection="close")

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on, within its bytes and seconds."""
        received, whole, answered = 0, False, False

        async def take() -> Message:
            nonlocal received, whole
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limits.bytes:
                if message.get("more_body"):
                    await _discard(receive)
                raise self._too_large()
            whole = not message.get("more_body")
            return message

        async def give(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, take, give)
        if answered:  # if only in part, the server closes the connection
            return
        seconds = f"{self._limits.seconds:g} s"
        if whole:
            late = ProblemError(503, f"The photograph wasn't done within {seconds}", "Send it again", Retry_After="5")
        else:
            late = ProblemError(408, f"The request wasn't complete within {seconds}", "Send a smaller one, or faster")
        await late.response()(scope, receive, send)


async def _discard(receive: Receive) -> None:
    """Reads the rest of a body without keeping it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while (await receive()).get("more_body"):
                pass


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
