"""The errors that requests are answered with: JSON that says what is wrong and what to do."""

from fastapi.responses import JSONResponse
from pydantic import Field

from backdrop.common.errors import BackdropError
from backdrop.config.records import Record


class Problem(Record):
    """The body of every answer that isn't a picture."""

    error: str = Field(description="What is wrong.", examples=["The photograph is truncated"])
    remedy: str = Field(description="What to do about it.", examples=["Copy it again from where it came, or remove it"])


class ProblemError(BackdropError):
    """A request that is refused.

    Args:
        status: the HTTP status.
        what: what is wrong.
        remedy: what to do about it.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, what: str, remedy: str, **headers: str) -> None:
        super().__init__(what, remedy)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """The answer."""
        return respond(self.status, self, self.headers)


def respond(status: int, error: BackdropError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error of ours as an answer."""
    body = Problem(error=error.what, remedy=error.remedy)
    return JSONResponse(body.model_dump(), status, headers)


def not_ready(address: str) -> ProblemError:
    """The error before the first version is loaded."""
    return ProblemError(503, f"No version of {address} is loaded yet", "Try again later", Retry_After="10")
