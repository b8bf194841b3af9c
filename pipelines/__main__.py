"""`python -m pipelines`: compiles a pipeline for a cluster, or runs it here."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli import guard
from backdrop.errors import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Name = Annotated[str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file's path.")]
FoldList = Annotated[str, typer.Option("--folds", metavar="0,1", help="Only the members of these folds.")]
Assignments = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set in every recipe: epochs=2.")]


class Runner(StrEnum):
    """Where a local run's tasks run: as processes here, or in containers of the image."""

    subprocess = "subprocess"
    docker = "docker"


@app.callback()
def _pipelines(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Compile Backdrop's training pipeline for Kubeflow, or run it here."""


@app.command("compile")
def compile_(
    ensemble: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The package to write.")] = Path("package.yaml"),
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
) -> None:
    """Compile an ensemble's training pipeline for Kubeflow."""
    from backdrop import storage
    from backdrop.recipe import find_ensemble
    from pipelines.package import build
    from pipelines.training import with_overrides

    package = build(with_overrides(find_ensemble(ensemble), assignments), _folds(folds))
    storage.write_bytes(out, package.dump())
    print(f"{package.name} {package.version} is in {out}")


@app.command()
def run(
    ensemble: Name,
    data: Annotated[str, typer.Option(help="The dataset: a folder or an s3:// address.")],
    name: Annotated[str, typer.Option(help="The registered model; the ensemble's name if not given.")] = "",
    work: Annotated[Path, typer.Option(help="Folder for members, report, logs and MLflow.")] = Path("work"),
    objects: Annotated[int, typer.Option(min=0, help="Only the first so many objects by name; 0 for all.")] = 0,
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    promote: Annotated[bool, typer.Option(help="Let the gate judge the new version.")] = True,
    runner: Annotated[Runner, typer.Option(help="Tasks as processes here, or in containers.")] = Runner.subprocess,
) -> None:
    """Run an ensemble's training pipeline here, one task after another."""
    from rich.console import Console

    from backdrop.recipe import find_ensemble
    from pipelines.local import Request, run_here
    from pipelines.training import with_overrides

    chosen = with_overrides(find_ensemble(ensemble), assignments)
    request = Request(chosen, data, name or chosen.name, work, objects, _folds(folds), promote, runner is Runner.docker)
    # It keeps the terminal as it is now: during the run sys.stdout is kfp's.
    raise typer.Exit(run_here(request, Console(file=sys.stdout)))


def _folds(text: str) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise ConfigError(f"--folds {text} is no list of folds", "Write it as --folds 0,1") from error


def main() -> None:
    """Runs `python -m pipelines`."""
    guard(lambda: app(prog_name="python -m pipelines"))


if __name__ == "__main__":
    main()
