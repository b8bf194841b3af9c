"""The command line: parses, calls a step, prints the result. Heavy imports wait until a command needs them."""

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Annotated, Any

import typer

from backdrop import __version__
from backdrop.cli import data, ensembles, inference, pipeline, recipes, registry, serving, training
from backdrop.cli.command import Group
from backdrop.common.environment import check_files
from backdrop.common.errors import BackdropError, explain
from backdrop.common.progress import waiting
from backdrop.common.redact import redact

app = typer.Typer(
    cls=Group, no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
for _group in (data, training, inference, registry, serving):
    app.add_typer(_group.app)
app.add_typer(recipes.app, name="recipes")
app.add_typer(ensembles.app, name="ensembles")
app.add_typer(pipeline.app, name="pipeline")

BUG = "Please report it with what `backdrop --debug …` prints"


def main() -> None:
    """Runs `backdrop`."""
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that it starts would import a folder's types.py instead of Python's
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may have characters that the terminal hasn't
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _show_traceback
    logging.setLogRecordFactory(_make_record)
    with waiting(" ".join(["backdrop", *sys.argv[1:2]])):
        guard(_run)


def _open_streams() -> None:
    """Opens what is closed of stdin, stdout and stderr on nothing, because a file would take its place.

    Python takes a closed stdin or stdout as none. But what is printed to a closed stderr would appear on stdout, in the
    middle of a picture.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # has the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # it stays open


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback without credentials; libraries' errors quote addresses and headers."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _make_record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """A log record without credentials; libraries log addresses and headers, too."""
    record = logging.LogRecord(*arguments, **options)
    record.msg, record.args = redact(record.getMessage()), ()
    return record


def _run() -> None:
    check_files()
    app()


def guard(command: Callable[[], object]) -> None:
    """Runs a command; an error is one line and exit code 2, or with `--debug` a traceback."""
    try:
        try:
            command()
        finally:
            _flush()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {' '.join(str(explain(error, BUG)).splitlines())}", file=sys.stderr)
        sys.exit(BackdropError.exit_code)


def _flush() -> None:
    """Writes the output that is left: once Python ends, an error would be exit code 120 and no line of ours."""
    try:
        print(end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries once more when it ends
        if error.errno == errno.EPIPE:
            sys.exit(1)  # as click does: who reads it has seen enough
        raise


def _version(wanted: bool) -> None:
    if wanted:
        print(f"backdrop {__version__}")
        raise typer.Exit


@app.callback()
def backdrop(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train ensembles that cut products out of studio photographs."""
