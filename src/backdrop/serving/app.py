"""The service's paths."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from backdrop import __version__
from backdrop.common.errors import BackdropError, DataError, TooLargeError
from backdrop.inference.compose import Pictures
from backdrop.serving.batching import Batcher, Job
from backdrop.serving.champion import Champion
from backdrop.serving.gate import Gate, Limits
from backdrop.serving.observer import MODEL, Metrics, Observer
from backdrop.serving.openapi import ABOUT, DICE, DICE_RANGE, REGIONS, UNCONFIDENCE, documented
from backdrop.serving.photographs import CutoutOptions, NoOptions, count_pixels, read_photograph
from backdrop.serving.problems import ProblemError, not_ready, respond


@cache
def page() -> tuple[str, str]:
    """The page at `/`, and the policy that lets it run its own script and style and nothing else."""
    html = (files("backdrop.serving") / "page.html").read_text(encoding="utf-8")

    def own(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = ["default-src 'none'", f"script-src {own('script')}", f"style-src {own('style')}", "img-src blob: data:"]
    rules += ["connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return html, "; ".join(rules)


def create_app(champion: Champion, limits: Limits) -> tuple[ASGIApp, Gate]:
    """The service, and its gate, which says how many requests are under way."""
    metrics = Metrics()
    batcher = Batcher(champion, metrics.batch.observe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        batcher.start()
        yield
        champion.close()
        batcher.close()

    api = FastAPI(
        title="Backdrop",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy with TLS it would lead to http://, and the token with it
    )
    gate = Gate(api, limits)
    _handle_errors(api)
    _add_pictures(api, champion, batcher)
    _add_operations(api, champion, gate, metrics)
    return Observer(gate, metrics), gate


def _add_pictures(api: FastAPI, champion: Champion, batcher: Batcher) -> None:
    async def picture(request: Request, pictures: Pictures, media_type: str) -> Response:
        if champion.current is None:
            raise not_ready(champion.address)
        data = await read_photograph(request)
        pixels = await asyncio.to_thread(count_pixels, data)
        made = await asyncio.wrap_future(batcher.submit(Job(data, pixels, pictures)))
        headers = {
            MODEL: made.model,
            UNCONFIDENCE: f"{made.unconfidence:.6f}",
            REGIONS: " ".join(",".join(map(str, box)) for box in made.regions),
            "Cache-Control": "no-store",
        }
        if made.dice:
            headers |= {DICE: f"{made.dice.dice:.4f}", DICE_RANGE: f"{made.dice.low:.4f} {made.dice.high:.4f}"}
        return Response(made.data, media_type=media_type, headers=headers)

    @api.post("/v1/cutout", **documented("image/png", "image/webp", "image/jpeg"))
    async def cutout(request: Request, options: Annotated[CutoutOptions, Query()]) -> Response:
        """Cuts the product out: transparent or on a color, at the photograph's size or cropped."""
        chosen = options.parse()
        return await picture(request, Pictures("cutout", chosen), f"image/{chosen.type}")

    @api.post("/v1/mask", **documented("image/png"))
    async def mask(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
        """The photograph's mask: a PNG at its own size, black and white."""
        return await picture(request, Pictures("mask"), "image/png")


def _add_operations(api: FastAPI, champion: Champion, gate: Gate, metrics: Metrics) -> None:
    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        html, policy = page()
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @api.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Whether the process is alive."""
        return "alive\n"

    @api.get("/readyz", responses={503: {"description": "No model is loaded yet, or the server stops."}})
    async def readyz() -> JSONResponse:
        """Whether it takes photographs, which version it serves, and whether the registry answers."""
        current = champion.current
        registry = "answers" if champion.followed else "away"
        body = {"model": current.address if current else None, "registry": registry, "stopping": gate.stopping}
        return JSONResponse(body, 200 if current and not gate.stopping else 503)

    @api.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Metrics in Prometheus' text format."""
        current = champion.current
        metrics.inside.set(gate.inside)
        metrics.version.set(int(current.address.rpartition("/")[2]) if current else 0)
        metrics.switches.set(champion.switches)
        metrics.following.set(champion.followed)
        return PlainTextResponse(metrics.text())


def _handle_errors(api: FastAPI) -> None:
    @api.exception_handler(ProblemError)
    async def refused(_: Request, error: ProblemError) -> Response:
        return error.response()

    @api.exception_handler(BackdropError)
    async def bad(_: Request, error: BackdropError) -> Response:
        status = 413 if isinstance(error, TooLargeError) else 400 if isinstance(error, DataError) else 500
        return respond(status, error)

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it, but the log has it, as nginx's would

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        what = f"{first['loc'][-1]}: {first['msg']}"
        return ProblemError(422, what, "See /openapi.json for the options").response()

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        remedy = "See /openapi.json for what there is"
        what = f"{request.method} {request.url.path}: {error.detail}"
        return respond(error.status_code, BackdropError(what, remedy), dict(error.headers or {}))

    @api.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:  # the server's log has the traceback
        return ProblemError(500, "This is a bug in Backdrop", "Please report it with the server's log").response()
