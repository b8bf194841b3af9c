"""Runs the service in this process until it is told to stop."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from backdrop.common.environment import check_header
from backdrop.common.errors import ConfigError
from backdrop.common.progress import log, waiting
from backdrop.config.records import read_text
from backdrop.data.formats import max_pixels
from backdrop.serving.app import create_app
from backdrop.serving.champion import Champion
from backdrop.serving.gate import Gate, Limits
from backdrop.serving.problems import ProblemError

TOKEN = "BACKDROP_SERVE_TOKEN"  # noqa: S105  # the variable's name
MIN_TOKEN, MAX_TOKEN = 16, 1000  # characters
MAX_PIXELS = "64000000"  # of a photograph, unless BACKDROP_MAX_PIXELS says otherwise: phones have 50 million


def serve(model: str, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serves a registered model over HTTP until SIGTERM or Ctrl-C; then it finishes what it has begun.

    Args:
        model: such as `models:/cars@champion`, which is followed, or `models:/cars/3`.
        host: the address to listen at; one of IPv6 may be in brackets, as in a URL.
        port: to listen at; 0 for a free one, which is printed.
        limits: what it accepts; by default anyone's requests.

    Raises:
        ConfigError: if it can't listen there, or BACKDROP_MAX_PIXELS isn't a number.
        TrackingError: if the model's address is malformed.
    """
    os.environ.setdefault("BACKDROP_MAX_PIXELS", MAX_PIXELS)
    max_pixels()
    limits = limits or Limits()
    host = host.removeprefix("[").removesuffix("]")
    server = make_server(Champion(model), limits)
    with _listen(host, port) as listener, waiting(""):
        at = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        log(f"{model} at http://{at}/ ({'with' if limits.tokens else 'without'} tokens)")
        server.run([listener])


def make_server(champion: Champion, limits: Limits) -> uvicorn.Server:
    """The server of a model, for `run` with a listening socket."""
    app, gate = create_app(champion, limits)
    config = uvicorn.Config(
        app,
        http=partial(_Protocol, limits.seconds),  # type: ignore[arg-type]  # called like the class
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,  # for who sends a second signal: after the first, the gate has waited already
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return _Server(config, gate)


def read_tokens(file: str | None) -> Sequence[str]:
    """The tokens that requests may bear: those of BACKDROP_SERVE_TOKEN, and the lines of a file.

    Args:
        file: its path or `s3://` address; None for none.

    Raises:
        ConfigError: if a token is too short or too long or can't be sent in a header, or the file has none or can't be
            read.
    """
    tokens = [(TOKEN, token) for token in os.environ.get(TOKEN, "").split()]
    if file is not None:
        lines = read_text(file, "tokens").split()
        if not lines:
            raise ConfigError(f"{file} has no token", "Write one a line")
        tokens += [(file, token) for token in lines]
    for source, token in tokens:
        check_header(source, token)
        if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
            what = f"A token of {source} has fewer than {MIN_TOKEN} or more than {MAX_TOKEN:,} characters"
            raise ConfigError(what, "Make one with `openssl rand -hex 32`")
    return [token for _, token in tokens]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{host}:{port} can't be listened at ({error})", "Choose others by --host and --port"
        ) from error


class _Protocol(H11Protocol):
    """A connection, which is closed if headers don't come in time: idle clients must not use up all there can be."""

    def __init__(self, seconds: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def send_400_response(self, msg: str) -> None:
        """Answers what isn't HTTP as every error is answered, unless an answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = bytes(ProblemError(400, msg.rstrip("."), "Send a request of HTTP/1.1").response().body)
            headers = [("content-type", "application/json"), ("connection", "close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Sets the deadline while headers are awaited; before another request begins, uvicorn has a shorter one."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """At the first signal it refuses new requests, and ends after the last one under way; a second ends it at once."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.stopping:
            super().handle_exit(sig, frame)
        self._gate.stopping = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or (self._gate.stopping and not self._gate.inside)
