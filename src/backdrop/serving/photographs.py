"""A request's photograph and options, checked before anything is decoded."""

from fastapi import Request
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from backdrop.common.errors import ConfigError
from backdrop.config.records import Record
from backdrop.data.formats import examine, format_of
from backdrop.inference.compose import MAX_MARGIN, PictureOptions, PictureType, parse_color
from backdrop.serving.problems import ProblemError

TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "heic": "image/heic"}
FORM = "multipart/form-data"
ONE_FILE = "Send one file, and nothing else"


class NoOptions(Record):
    """The query of a path that has no options."""


class CutoutOptions(NoOptions):
    """The query of `/v1/cutout`."""

    type: PictureType = Field("png", description="Format of the picture; JPEG is white for transparent.")
    background: str | None = Field(
        None, min_length=1, description="Color, #rrggbb or a CSS name.", examples=["#ffffff", "white"]
    )
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


async def read_photograph(request: Request) -> bytes:
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


def count_pixels(data: bytes) -> int:
    """The number of pixels by a photograph's header."""
    file_format = format_of(data)
    if file_format not in TYPES:
        what = "The photograph is no JPEG, PNG, WebP or HEIC file"
        raise ProblemError(415, what, "Save it as one of them")
    return examine(data, "The photograph")[1]


class _Form(MultiPartParser):
    """Keeps files in memory, which the gate bounds, and not on the disk."""

    spool_max_size = 2**40
