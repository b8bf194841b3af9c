"""What an operator sees: a line of JSON for each request, and metrics for Prometheus."""

import contextlib
import json
import sys
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backdrop.common.words import now

PATHS = ("/", "/v1/cutout", "/v1/mask", "/openapi.json", "/healthz", "/readyz", "/metrics")
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, and logged only if they fail
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MAX_PATH = 200  # characters of an address that are logged
MODEL = "backdrop-model"  # the header that names the version


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "backdrop_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "backdrop_request_seconds", "Seconds until the answer was sent.", ["path"],
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.batch = Histogram(
            "backdrop_batch_photographs", "Photographs that networks saw together.",
            registry=self.registry, buckets=(1, 2, 3, 4),
        )  # fmt: skip
        self.inside = self._gauge("backdrop_requests_in_progress", "Requests under way, waiting ones included.")
        self.version = self._gauge("backdrop_model_version", "Number of the version that is served; 0 for none.")
        self.switches = self._gauge("backdrop_model_switches", "How often another version took over.")
        self.following = self._gauge(
            "backdrop_registry_followed", "1 if the registry has answered within a minute, else 0."
        )

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class Observer:
    """An ASGI application around another: it counts and logs requests, and forbids browsers to guess types.

    Logged are the path without its query, sizes and times: no content, no token, no address.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent, model = time.monotonic(), 0, 0, ""
        is_head = scope["method"] == "HEAD"  # answered as GET, which FastAPI doesn't do; the server leaves the body out

        async def give(message: Message) -> None:
            nonlocal status, sent, model
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                model = headers.get(MODEL, "")
            await send(message)
            if not is_head:
                sent += len(message.get("body", b""))

        try:
            await self._app({**scope, "method": "GET"} if is_head else scope, receive, give)
        finally:
            path, seconds = scope["path"], time.monotonic() - began
            known = path if path in PATHS else "other"
            self._metrics.requests.labels(known, str(status)).inc()
            self._metrics.seconds.labels(known).observe(seconds)
            if path not in QUIET or status >= 500:
                length = Headers(scope=scope).get("content-length", "")
                line = {
                    "time": now(),
                    "method": scope["method"],
                    "path": path[:MAX_PATH],
                    "status": status,
                    "seconds": round(seconds, 3),
                    "received": int(length) if length.isdecimal() else None,
                    "sent": sent,
                    "model": model,
                }
                with contextlib.suppress(OSError):  # a log that can't be written, as on a full disk, stops nothing
                    print(json.dumps(line), flush=True, file=sys.stdout)
