"""Commands for training: cost, members, schedules, pseudo-labels."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Hours, Members, Plan, Plans, RecipeName, Seed, Set, SetFile, Weights
from backdrop.cli.output import estimate_text, search_text
from backdrop.common.errors import ConfigError
from backdrop.common.words import count

if TYPE_CHECKING:
    from backdrop.steps.train import TrainRecord

app = typer.Typer()


@command(app, "backdrop estimate photos --hours 2")
def estimate(
    data: Data,
    ensemble: Annotated[
        str,
        typer.Option(metavar="ENSEMBLE", help="A shipped ensemble's name, a YAML file, or auto for a proposal."),
    ] = "auto",
    hours: Hours = None,
    out: Annotated[str | None, typer.Option(metavar="YAML", help="Write auto's proposal to this file.")] = None,
    price: Annotated[float | None, typer.Option(metavar="P", help="Price of one device for an hour.")] = None,
    max_gpu_hours: Annotated[
        float | None, typer.Option(metavar="HOURS", help="Exit code 2 if training takes more than this.")
    ] = None,
) -> None:
    """Propose an ensemble, or measure what one will cost.

    Trains each recipe for a few seconds: hours, memory, devices, money.
    """
    from backdrop.config.ensemble import AUTO
    from backdrop.steps.estimate import HOURS, afford
    from backdrop.steps.estimate import estimate as step

    if ensemble != AUTO and (hours or out):
        raise ConfigError("--hours and --out are only for a proposal", "Leave them out, or --ensemble")
    record = step(data, ensemble, hours or HOURS, out=out)
    for reason in record.reasons:
        print(reason)
    print(estimate_text(record, price))
    if ensemble == AUTO:
        named = shlex.quote(out) if out else f"auto --hours {hours or HOURS:g}"
        print(f"Run it: backdrop pipeline run {named} --data {shlex.quote(data)}")
    if max_gpu_hours is not None:
        afford(record, max_gpu_hours)


@command(app, "backdrop train photos --plan plan.csv --recipe tiny --fold 0 --out tiny-0")
def train(
    data: Data,
    plan: Plan,
    recipe: RecipeName,
    fold: Annotated[int, typer.Option(metavar="N", help="The fold to leave out and judge on.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Member folder. {key} becomes the content key.")],
    overrides: Set = [],  # noqa: B006  # typer wants the default itself and never changes it
    set_file: SetFile = None,
    pseudo: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Also train on these pseudo-labels, written by `label`.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard earlier results and start from scratch.")] = False,
) -> None:
    """Train one recipe on one fold.

    Resumes a training that was killed.
    """
    from backdrop.config import find_recipe, read_over
    from backdrop.steps.train import train as step

    chosen = find_recipe(recipe, overrides, read_over(set_file))
    record = step(data, plan, chosen, fold, out, pseudo=pseudo, fresh=fresh)
    print(f"{record.address}: Dice {record.member.dice:.5f} on fold {fold} {_how(record, out)}")


@command(app, "backdrop tune photos --plan plan.csv --recipe tiny --out search --trials 8")
def tune(
    data: Data,
    plan: Plan,
    recipe: RecipeName,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder or s3:// prefix. {key} becomes the search's key.")],
    trials: Annotated[int, typer.Option(metavar="N", help="Number of schedules to try, presets included.")] = 16,
    budget_epochs: Annotated[int, typer.Option(metavar="N", min=2, help="Maximum epochs of a trial on a fold.")] = 6,
    folds: Annotated[str, typer.Option(metavar="0,1", help="Folds to leave out and judge on, one by one.")] = "0",
    space: Annotated[str | None, typer.Option(metavar="SPACE", help="A shipped space's name, or a YAML file.")] = None,
    searcher: Annotated[str, typer.Option(metavar="NAME", help="tpe or random.")] = "tpe",
    scheduler: Annotated[str, typer.Option(metavar="NAME", help="asha stops bad trials early; none doesn't.")] = "asha",
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Seeds to compare the best with the best preset; 0 compares nothing.")
    ] = 3,
    parallel: Annotated[
        int | None, typer.Option(metavar="N", help="Trials at a time. Without it: one for each GPU, or one.")
    ] = None,
    seed: Seed = 0,
    cluster: Annotated[
        str | None, typer.Option(metavar="YAML", help="A Ray cluster for KubeRay to create for the search.")
    ] = None,
    overrides: Set = [],  # noqa: B006  # as above
) -> None:
    """Search a learning-rate schedule on Ray.

    Resumes a search that was killed.
    """
    from backdrop.config import Budget
    from backdrop.config.folds import as_folds
    from backdrop.config.records import parse
    from backdrop.steps.tune import Resources
    from backdrop.steps.tune import tune as step

    values = {"trials": trials, "epochs": budget_epochs, "folds": as_folds(folds), "searcher": searcher}
    values |= {"scheduler": scheduler, "repeats": repeats, "seed": seed}
    record = step(
        data, plan, recipe, out, parse(Budget, values, "tune"), space, overrides, Resources(parallel, cluster)
    )
    print(search_text(record.search))
    print(f"{record.out}/schedule.yaml")


@command(app, "backdrop label photos --plan plan.csv --members tiny-0 tiny-1 --out labels")
def label(
    data: Data,
    plan: Plans,
    members: Members,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder for labels.csv and the masks.")],
    ensemble: Weights = None,
    max_uncertainty: Annotated[
        float, typer.Option(metavar="U", help="Keep an object if its uncertainty is at most this.")
    ] = 0.01,
) -> None:
    """Label a dataset's test photographs to train on.

    Each fold gets masks from members that never saw that fold's photographs.
    """
    from backdrop.steps.label import label as step

    record = step(data, plan, members, out, ensemble, max_uncertainty)
    for fold, kept in record.kept.items():
        print(f"fold {fold}  {kept} of {count(record.photographs, 'photograph')} kept")
    if record.failed:
        print(f"{count(record.failed, 'photograph')} can't be used")
        raise typer.Exit(1)


@command(app, "backdrop distill photos --plan plan.csv --model models:/cars@champion \\\n  --out student")
def distill(
    data: Data,
    plan: Plans,
    model: Annotated[str, typer.Option(metavar="MODEL", help="The ensemble that teaches: models:/NAME@champion.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Member folder. {key} becomes the content key.")],
    recipe: RecipeName = "student",
    overrides: Set = [],  # noqa: B006  # as above
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard earlier results and start from scratch.")] = False,
) -> None:
    """Train a small network for CPUs on an ensemble's masks.

    Resumes a training that was killed.
    """
    from backdrop.steps.distill import distill as step

    record = step(data, plan, model, out, recipe, overrides, fresh)
    print(f"{record.address}: Dice {record.member.dice:.5f} on one photograph of each object {_how(record, out)}")


def _how(record: "TrainRecord", out: str) -> str:
    """How long a training took, or that there was none; and if MLflow had the member, that it isn't in the folder."""
    from backdrop.common import storage
    from backdrop.inference.member import RECORD

    if not record.reused:
        return f"in {record.member.seconds:.0f} s"
    folder = out.replace("{key}", record.member.key[:12])
    there = storage.exists(storage.within(folder, RECORD))
    return "(unchanged)" if there else f"(unchanged; nothing was written to {folder})"
