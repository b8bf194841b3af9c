"""The command line: parses, calls a step, prints the result. Heavy imports wait until a command needs them."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from backdrop import __version__
from backdrop.cli import data, ensembles, inference, pipeline, recipes, registry, training
from backdrop.common.errors import BackdropError
from backdrop.common.progress import waiting

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for _group in (data, training, inference, registry):
    app.add_typer(_group.app)
app.add_typer(recipes.app, name="recipes")
app.add_typer(ensembles.app, name="ensembles")
app.add_typer(pipeline.app, name="pipeline")

# The optional libraries, and the extra that brings each.
EXTRAS = {
    "mlflow": "tracking",
    "kfp": "pipelines",
    "kfp.kubernetes": "pipelines",
    "ray": "tuning",
    "optuna": "tuning",
    "kubernetes": "tuning",
}


def main() -> None:
    """Runs `backdrop`."""
    with waiting(" ".join(["backdrop", *sys.argv[1:2]])):
        guard(app)


def guard(command: Callable[[], object]) -> None:
    """Runs a command; what the user can fix is one line and exit code 2, anything else a traceback."""
    debug = "--debug" in sys.argv
    try:
        command()
    except BackdropError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if debug or error.name not in EXTRAS:
            raise
        print(
            f"error: {error.name} isn't installed. Run: pip install 'backdrop-ml[{EXTRAS[error.name]}]'.",
            file=sys.stderr,
        )
        sys.exit(BackdropError.exit_code)
    except OSError as error:
        if debug or error.filename is None:
            raise
        print(
            f"error: {error.filename}: {error.strerror}. Check the path, its permissions and the free space.",
            file=sys.stderr,
        )
        sys.exit(BackdropError.exit_code)


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
