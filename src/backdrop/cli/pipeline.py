"""`backdrop pipeline …`: compile the training pipeline for a cluster, or run it here."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli import kubeflow
from backdrop.cli.options import Assignments, EnsembleName, FoldList, Ray, Tune, package_of

app = typer.Typer(no_args_is_help=True, help="Compile the training pipeline for Kubeflow, or run it here.")
app.add_typer(kubeflow.app)


class Runner(StrEnum):
    """Where a local run's tasks run: as processes here, or in containers of the image."""

    subprocess = "subprocess"
    docker = "docker"


@app.command("compile")
def compile_(
    ensemble: EnsembleName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The package to write.")] = Path("package.yaml"),
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
) -> None:
    """Compile an ensemble's training pipeline for Kubeflow."""
    from backdrop.common import storage

    package = package_of(ensemble, folds, assignments, tune, ray)
    storage.write_bytes(out, package.dump())
    print(f"{package.name} {package.version} is in {out}")


@app.command()
def run(
    ensemble: EnsembleName,
    data: Annotated[str, typer.Option(help="The dataset: a folder or an s3:// address.")],
    name: Annotated[str, typer.Option(help="The registered model; the ensemble's name if not given.")] = "",
    work: Annotated[Path, typer.Option(help="Folder for members, report, logs and MLflow.")] = Path("work"),
    objects: Annotated[int, typer.Option(min=0, help="Only the first so many objects by name; 0 for all.")] = 0,
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    promote: Annotated[bool, typer.Option(help="Let the gate judge the new version.")] = True,
    runner: Annotated[Runner, typer.Option(help="Tasks as processes here, or in containers.")] = Runner.subprocess,
) -> None:
    """Run an ensemble's training pipeline here, one task after another."""
    from rich.console import Console

    from backdrop.config import find_ensemble
    from backdrop.config.folds import as_folds
    from backdrop.local.run import Request, run_here
    from backdrop.pipelines.training import as_tuned, with_overrides

    chosen = with_overrides(find_ensemble(ensemble), assignments)
    wanted = (as_folds(folds) or None, promote, as_tuned(tune), runner is Runner.docker)
    request = Request(chosen, data, name or chosen.name, work, objects, *wanted)
    # It keeps the terminal as it is now: during the run sys.stdout is kfp's.
    raise typer.Exit(run_here(request, Console(file=sys.stdout)))
