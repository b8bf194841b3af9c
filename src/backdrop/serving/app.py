"""The service's paths."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from backdrop import __version__
from backdrop.common.errors import BackdropError, ConfigError, DataError, TooLargeError
from backdrop.config.records import Record
from backdrop.data.formats import examine, format_of
from backdrop.data.masks import encode_png
from backdrop.inference.alpha import make_matte
from backdrop.inference.batch import Image
from backdrop.inference.compose import MAX_MARGIN, PictureOptions, PictureType, compose, encode, parse_color
from backdrop.inference.ensemble import EnsembleModel, Outcome
from backdrop.serving.batching import Batcher, Job, Make
from backdrop.serving.champion import Champion
from backdrop.serving.gate import Gate, Limits
from backdrop.serving.observer import MODEL, Metrics, Observer
from backdrop.serving.problems import Problem, ProblemError, not_ready, respond

TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "heic": "image/heic"}
BINARY = {"type": "string", "format": "binary"}
OTHER = "application/octet-stream"
FORM = "multipart/form-data"
ONE_FILE = "Send one file, and nothing else"
ABOUT = """Cuts products out of photographs with a registered model.

Send a photograph as the body, or as the only file of a form. A JPEG, PNG, WebP or HEIC file is recognized by its
content. Addresses of photographs are never fetched."""
BODY = {
    "required": True,
    "description": "A photograph: JPEG, PNG, WebP or HEIC.",
    "content": {
        **{kind: {"schema": BINARY} for kind in (*TYPES.values(), OTHER)},
        FORM: {"schema": {"type": "object", "properties": {"photo": BINARY}, "required": ["photo"]}},
    },
}
HEADERS = {
    MODEL: {"description": "The version that made it.", "schema": {"type": "string"}, "example": "models:/cars/3"},
    "backdrop-unconfidence": {
        "description": "Doubtful pixels per pixel that is certainly background; what is above 0.01 deserves a look.",
        "schema": {"type": "number"},
        "example": 0.0004,
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no photograph that can be used."},
    401: {"model": Problem, "description": "The server wants a token."},
    408: {"model": Problem, "description": "The request wasn't complete in time."},
    413: {"model": Problem, "description": "It has too many bytes or pixels."},
    415: {"model": Problem, "description": "It is another kind of file."},
    422: {"model": Problem, "description": "An option of the query can't be used."},
    429: {"model": Problem, "description": "The server is busy: see Retry-After."},
    503: {"model": Problem, "description": "No model is loaded yet, the server stops, or it took too long."},
}


class NoOptions(Record):
    """The query of a path that has no options."""


class CutoutOptions(NoOptions):
    """The query of `/v1/cutout`."""

    type: PictureType = Field("png", description="Format of the picture; JPEG needs a background.")
    background: str | None = Field(None, description="Color, #rrggbb or a CSS name.", examples=["#ffffff", "white"])
    crop: float | None = Field(
        None, ge=0, le=MAX_MARGIN, description="Crop to the product, with this margin in percent of its longer side."
    )

    def parse(self) -> PictureOptions:
        """The options as `compose` takes them.

        Raises:
            ProblemError: if they can't be used together, or the background is no color.
        """
        try:
            return PictureOptions(self.type, parse_color(self.background) if self.background else None, self.crop)
        except ConfigError as error:
            raise ProblemError(422, error.what, error.remedy) from error


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


class _Form(MultiPartParser):
    """Keeps files in memory, which the gate bounds, and not on the disk."""

    spool_max_size = 2**40


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
        title="Backdrop", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    gate = Gate(api, limits)
    _handle_errors(api)
    _add_pictures(api, champion, batcher)
    _add_operations(api, champion, gate, metrics)
    return Observer(gate, metrics), gate


def _add_pictures(api: FastAPI, champion: Champion, batcher: Batcher) -> None:
    async def picture(request: Request, make: Make, media_type: str) -> Response:
        if champion.current is None:
            raise not_ready(champion.address)
        data = await _photograph(request)
        pixels = await asyncio.to_thread(_pixels, data)
        made = await asyncio.wrap_future(batcher.submit(Job(data, pixels, make)))
        headers = {MODEL: made.model, "Backdrop-Unconfidence": f"{made.unconfidence:.6f}", "Cache-Control": "no-store"}
        return Response(made.data, media_type=media_type, headers=headers)

    @api.post("/v1/cutout", **_documented("image/png", "image/webp", "image/jpeg"))
    async def cutout(request: Request, options: Annotated[CutoutOptions, Query()]) -> Response:
        """Cuts the product out: transparent or on a color, at the photograph's size or cropped."""
        chosen = options.parse()
        return await picture(request, partial(_cut_out, chosen), f"image/{chosen.type}")

    @api.post("/v1/mask", **_documented("image/png"))
    async def mask(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
        """The photograph's mask: a PNG at its own size, black and white."""
        return await picture(request, lambda _, outcome, model: encode_png(model.cut(outcome, "")), "image/png")


def _cut_out(options: PictureOptions, image: Image, outcome: Outcome, model: EnsembleModel) -> bytes:
    assert outcome.probability is not None
    matte = make_matte(image, outcome.probability, model.cut(outcome, ""))
    try:
        return encode(compose(matte, options), options.type)
    except DataError as error:
        raise DataError(f"The picture {error.what}", error.remedy) from error


def _documented(*kinds: str) -> dict[str, Any]:
    """What OpenAPI says of a path that answers pictures of these types."""
    picture = {
        "description": "The picture.",
        "content": {kind: {"schema": BINARY} for kind in kinds},
        "headers": HEADERS,
    }
    return {
        "responses": {200: picture, **PROBLEMS},
        "openapi_extra": {"requestBody": BODY},
        "response_class": Response,
    }


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
        registry = "away" if champion.trouble else "answers"
        body = {"model": current.address if current else None, "registry": registry, "stopping": gate.stopping}
        return JSONResponse(body, 200 if current and not gate.stopping else 503)

    @api.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Metrics in Prometheus' text format."""
        current = champion.current
        metrics.inside.set(gate.inside)
        metrics.version.set(int(current.address.rpartition("/")[2]) if current else 0)
        metrics.switches.set(champion.switches)
        metrics.following.set(not champion.trouble)
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


async def _photograph(request: Request) -> bytes:
    """The file in a request's body, which is the body itself or the only file of a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        data = await request.body()
    else:
        try:
            form = await _Form(request.headers, request.stream(), max_files=1, max_fields=0).parse()
        except MultiPartException as error:
            raise ProblemError(400, f"The form can't be read ({error.message})", ONE_FILE) from error
        sent = list(form.values())
        data = await sent[0].read() if sent and isinstance(sent[0], UploadFile) else b""
        await form.close()
    if not data:
        raise ProblemError(400, "The request has no photograph", "Send one as the body, or as the only file of a form")
    return data


def _pixels(data: bytes) -> int:
    """The number of pixels by a photograph's header."""
    file_format = format_of(data)
    if file_format not in TYPES:
        what = "The photograph is no JPEG, PNG, WebP or HEIC file"
        raise ProblemError(415, what, "Save it as one of them")
    return examine(data, "The photograph")[1]
