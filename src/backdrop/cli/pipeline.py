"""`backdrop pipeline …`: compile the training pipeline for a cluster, or run it here."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from backdrop.cli import kubeflow
from backdrop.cli.command import Group, command
from backdrop.cli.options import (
    Assignments,
    EnsembleName,
    FoldList,
    Hours,
    Labels,
    Ray,
    Retries,
    Shards,
    Tune,
    Volume,
    package_of,
    pods_of,
)
from backdrop.common.errors import ConfigError

app = typer.Typer(cls=Group, no_args_is_help=True, help="Run the training pipeline here or on Kubeflow.")
app.add_typer(kubeflow.app)


class Runner(StrEnum):
    """How a local run runs its tasks: as processes, or in containers of the image."""

    subprocess = "subprocess"
    docker = "docker"


@command(app, "backdrop pipeline compile demo --out demo.yaml", name="compile")
def compile_(
    ensemble: EnsembleName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="YAML", help="The package to write.")] = Path(
        "package.yaml"
    ),
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
    labels: Labels = [],  # noqa: B006  # typer's way, and never changed
    retries: Retries = None,
    volume: Volume = "",
    shards: Shards = None,
) -> None:
    """Compile an ensemble's training pipeline for Kubeflow."""
    from backdrop.common.output_file import require_file, write_file
    from backdrop.pipelines.package import is_package
    from backdrop.pipelines.size import estimate_size

    require_file(out, is_package, "a compiled pipeline")
    package = package_of(ensemble, folds, assignments, tune, ray, pods_of(labels, retries, volume), shards)
    write_file(out, package.dump(), is_package, "a compiled pipeline")
    print(f"{package.name} {package.version} is in {out}; {estimate_size(package.documents).sentence}")


@command(app, "backdrop pipeline lint demo.yaml")
def lint(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A compiled package, of any pipeline.")],
) -> None:
    """Find faults that KFP compiles without an error.

    Exit code 1 if there are any.
    """
    from backdrop.common.words import count
    from backdrop.pipelines.lint import lint_file

    faults = lint_file(package)
    for fault in faults:
        print(f"error: {fault}")
    print(f"{package}: {count(len(faults), 'error')}")
    raise typer.Exit(1 if faults else 0)


@command(app, "backdrop pipeline run demo --data photos --set epochs=1")
def run(
    ensemble: Annotated[
        str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, a YAML file, auto or prediction.")
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="Dataset: a folder or s3:// prefix.")] = "",
    hours: Hours = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="The registered model. Default: the ensemble's name.")] = "",
    work: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for members, report and logs.")] = Path("work"),
    objects: Annotated[int, typer.Option(min=0, metavar="N", help="Use only the first N objects by name; 0: all.")] = 0,
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    promote: Annotated[bool, typer.Option(help="Let the gate judge the new version.")] = True,
    runner: Annotated[
        Runner, typer.Option(metavar="RUNNER", help="Run tasks as processes (subprocess) or in containers (docker).")
    ] = Runner.subprocess,
    shards: Shards = None,
    params: Annotated[
        Path | None, typer.Option(metavar="YAML", help="For prediction: images, model, out, work and so on.")
    ] = None,
) -> None:
    """Run the training or the prediction pipeline here.

    One task after another. Run it again to train or predict only what has changed. With auto, it first proposes an
    ensemble for the photographs and this machine, and keeps it in the work folder.
    """
    from rich.console import Console

    from backdrop.config import find_ensemble
    from backdrop.config.ensemble import AUTO
    from backdrop.config.explain import as_choice
    from backdrop.config.folds import as_folds
    from backdrop.local.auto import propose_here
    from backdrop.local.run import Prediction, Request, predict_here, run_here
    from backdrop.pipelines.parameters import read_parameters
    from backdrop.pipelines.prediction import NAME as PREDICTION
    from backdrop.pipelines.training import Tuned, with_overrides

    # The console keeps the current sys.stdout, because kfp replaces it during the run.
    console, containers = Console(file=sys.stdout), runner is Runner.docker
    if ensemble == PREDICTION:
        if data or name or objects or hours:
            raise ConfigError("--data, --name, --objects and --hours are of no use with prediction", "Leave them out")
        if params is None:
            raise ConfigError("The photographs, the model and the folders are missing", "Give --params")
        package = package_of(ensemble, folds, assignments, tune, False, shards=shards)
        values = _seen_from(params, read_parameters(params, package))
        raise typer.Exit(predict_here(Prediction(shards or 1, values, work, containers), console))
    if params is not None or shards is not None:
        raise ConfigError("--params and --shards are of no use without prediction", "Leave them out")
    if not data:
        raise ConfigError("The dataset is missing", "Give --data")
    if hours and ensemble != AUTO:
        raise ConfigError("--hours is of no use without auto", "Leave it out")
    source = propose_here(data, hours, work, objects, console) if ensemble == AUTO else ensemble
    chosen = with_overrides(find_ensemble(source), assignments)
    budget = as_choice("--tune", tune, Tuned)
    request = Request(
        chosen, data, name or chosen.name, work, objects, as_folds(folds) or None, promote, budget, containers
    )
    raise typer.Exit(run_here(request, console))


def _seen_from(params: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values with absolute paths; a background that isn't there is a color."""
    from backdrop.common import storage

    folder = storage.absolute(str(params.parent))
    paths = {name: storage.join(folder, values[name]) for name in ("images", "out", "work")}
    behind = storage.join(folder, values.get("background") or "")
    return values | paths | ({"background": behind} if storage.exists(behind) else {})
