"""The command that serves a model."""

from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Student

app = typer.Typer()


@command(app, "backdrop serve models:/cars@champion --port 8000")
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Registered model: models:/NAME@champion.")],
    student: Student = False,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen at.")] = 8000,
    tokens: Annotated[
        str | None, typer.Option(metavar="FILE", help="Accept only requests with one of this file's tokens.")
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests at a time, waiting ones included; more get 429.")
    ] = 16,
    max_megabytes: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum size of a photograph's file.")] = 32,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time for a request, the waiting included.")
    ] = 60.0,
) -> None:
    """Cut out photographs over HTTP.

    It follows the champion, and has a page for browsers.
    """
    from backdrop.serving.gate import Limits
    from backdrop.serving.server import read_tokens
    from backdrop.serving.server import serve as run
    from backdrop.tracking.students import student_address

    if student:
        model = student_address(model)
    run(model, host, port, Limits(max_requests, max_megabytes * 1_000_000, timeout, read_tokens(tokens)))
