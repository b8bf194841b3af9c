"""The command line: parses, calls a step, prints what came of it. Heavy imports wait until a command needs them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from backdrop import __version__
from backdrop.cli.output import check_text, plan_text, search_text
from backdrop.common.errors import BackdropError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
recipes = typer.Typer(no_args_is_help=True, help="List, show, copy, check and describe recipes.")
app.add_typer(recipes, name="recipes")

# The optional libraries, and the extra that brings each.
EXTRAS = {
    "mlflow": "tracking",
    "kfp": "pipelines",
    "kfp.kubernetes": "pipelines",
    "ray": "tuning",
    "optuna": "tuning",
    "kubernetes": "tuning",
}

Data = Annotated[str, typer.Argument(help="Dataset: a folder or s3:// prefix with train/ and train_masks/.")]
Plan = Annotated[str, typer.Option(help="Fold plan, a CSV file that `backdrop split` wrote.")]
Plans = Annotated[
    list[str], typer.Option(help="Fold plan; repeated if recipes differ in theirs, the first is the ensemble's own.")
]
Set = Annotated[list[str], typer.Option("--set", help="Override of the recipe, such as epochs=2; may be repeated.")]
SetFile = Annotated[
    str | None, typer.Option(help="YAML of keys in place of the recipe's own, such as a search's schedule.yaml.")
]
Name = Annotated[str, typer.Option(help="Name of the registered model.")]
Members = Annotated[list[str], typer.Option(help="Members: folders or runs:/ID/member addresses, one or more.")]
# `--members A B C`: what stands behind the first is of them too.
MORE_MEMBERS = {"allow_extra_args": True}


def main() -> None:
    """Runs `backdrop`."""
    guard(app)


def guard(command: Callable[[], object]) -> None:
    """Runs a command; what the user can mend is one line and exit code 2, anything else a traceback."""
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
        print(f"error: {error.name} isn't installed. pip install 'backdrop[{EXTRAS[error.name]}]'.", file=sys.stderr)
        sys.exit(BackdropError.exit_code)
    except OSError as error:
        if debug or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}. Check path, permissions and free space.", file=sys.stderr)
        sys.exit(BackdropError.exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"backdrop {__version__}")
        raise typer.Exit


@app.callback()
def backdrop(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Train k-fold ensembles that cut products out of studio photographs, judge them, promote the better."""


@app.command()
def sample(
    out: Annotated[str, typer.Argument(help="Folder of the new dataset.")],
    objects: Annotated[int, typer.Option(help="How many cars.")] = 14,
    views: Annotated[int, typer.Option(help="Photographs of each.")] = 16,
    size: Annotated[str, typer.Option(help="WxH, pixels.")] = "768x512",
    seed: Annotated[int, typer.Option(help="Which cars.")] = 0,
) -> None:
    """Render a synthetic studio dataset to try everything on."""
    from backdrop.steps.sample import sample as step

    record = step(out, objects, views, size, seed)
    print(f"{out}: {record.objects} objects x {record.views} views, {record.size}")


@app.command()
def check(
    data: Data,
    as_json: Annotated[bool, typer.Option("--json", help="Print a record for machines.")] = False,
) -> None:
    """Look for everything that can be wrong with a dataset; exit code 1 if something is."""
    from backdrop.steps.check import check as step

    report = step(data)
    print(report.model_dump_json(indent=1) if as_json else check_text(report))
    raise typer.Exit(1 if report.errors else 0)


@app.command()
def split(
    data: Data,
    out: Annotated[str, typer.Option(help="The plan to write, a CSV file.")],
    folds: Annotated[int, typer.Option(help="How many folds.")] = 5,
    holdout: Annotated[float, typer.Option(help="Share of the objects that only judge.")] = 0.15,
    by: Annotated[str, typer.Option(help="area, area-rank, stratified or random.")] = "area",
    view: Annotated[str | None, typer.Option(help="Rank by the area of this view alone, with area-rank.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    objects: Annotated[int | None, typer.Option(help="Only the first so many objects by name.")] = None,
    extend: Annotated[str | None, typer.Option(help="Older plan whose objects keep their places.")] = None,
    holdout_from: Annotated[str | None, typer.Option(help="Plan whose objects and holdout are taken.")] = None,
) -> None:
    """Place every object in a fold or in the holdout."""
    from backdrop.data.folds import as_by
    from backdrop.steps.split import split as step

    record = step(data, out, folds, holdout, as_by(by), seed, objects, extend, view, holdout_from)
    for name, count in record.objects.items():
        print(f"{name:>8}  {count:4} objects  mean mask area {record.areas[name]:,.0f} pixels")
    print(f"{out}  {record.data}")


@app.command()
def plan(
    ensemble: Annotated[str, typer.Argument(help="A shipped ensemble's name, or a YAML file.")],
    data: Annotated[str, typer.Option(help="The dataset that it will be trained on.")],
    price: Annotated[float | None, typer.Option(help="Of one device for an hour, in any currency.")] = None,
    max_gpu_hours: Annotated[float | None, typer.Option(help="Refuse an ensemble that takes more.")] = None,
) -> None:
    """Measure for moments what training an ensemble will take: hours, memory, devices, money."""
    from backdrop.steps.estimate import afford
    from backdrop.steps.estimate import plan as step

    record = step(ensemble, data)
    print(plan_text(record, price))
    if max_gpu_hours is not None:
        afford(record, max_gpu_hours)


@app.command()
def train(
    data: Data,
    plan: Plan,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")],
    fold: Annotated[int, typer.Option(help="The fold that is left out and judges.")],
    out: Annotated[str, typer.Option(help="Member folder; {key} in it becomes the content key.")],
    overrides: Set = [],  # noqa: B006  # typer wants the default itself and never changes it
    set_file: SetFile = None,
    pseudo: Annotated[str | None, typer.Option(help="Train on these pseudo-labels too: a folder of `label`.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, and discard what is there.")] = False,
) -> None:
    """Train one recipe on one fold, or go on where a killed run stopped."""
    from backdrop.steps.train import train as step

    record = step(data, plan, recipe, fold, out, overrides, pseudo, fresh, set_file)
    how = "was there already" if record.reused else f"took {record.member.seconds:.0f} s"
    print(f"{record.address}: Dice {record.member.dice:.5f} on fold {fold}, {how}")


@app.command()
def tune(
    data: Data,
    plan: Plan,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// prefix; {key} in it becomes the search's key.")],
    trials: Annotated[int, typer.Option(help="How many schedules are tried, presets among them.")] = 16,
    budget_epochs: Annotated[int, typer.Option(help="Epochs of a trial on a fold, at most.")] = 6,
    folds: Annotated[str, typer.Option(metavar="0,1", help="Folds that are left out in turn and judge.")] = "0",
    space: Annotated[str | None, typer.Option(help="A shipped space's name, or a YAML file.")] = None,
    searcher: Annotated[str, typer.Option(help="tpe or random.")] = "tpe",
    scheduler: Annotated[str, typer.Option(help="asha stops what does badly, pb2 grows rates instead; none.")] = "asha",
    repeats: Annotated[int, typer.Option(help="Fresh seeds for the best and the best preset; 0: no comparison.")] = 3,
    parallel: Annotated[int | None, typer.Option(help="Trials at a time; one for each GPU, else one.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    cluster: Annotated[str | None, typer.Option(help="YAML of a Ray cluster that KubeRay makes for it.")] = None,
    overrides: Set = [],  # noqa: B006  # as above
) -> None:
    """Search a learning-rate schedule on Ray, or go on where a killed search stopped."""
    from backdrop.config import Budget
    from backdrop.config.records import parse
    from backdrop.data.folds import as_folds
    from backdrop.steps.tune import tune as step

    asked = {"trials": trials, "epochs": budget_epochs, "folds": as_folds(folds), "searcher": searcher}
    asked |= {"scheduler": scheduler, "repeats": repeats, "seed": seed}
    record = step(data, plan, recipe, out, parse(Budget, asked, "tune"), space, overrides, parallel, cluster)
    print(search_text(record.search))
    print(f"{record.out}/schedule.yaml")


@app.command(context_settings=MORE_MEMBERS)
def label(
    context: typer.Context,
    data: Data,
    plan: Plans,
    members: Members,
    out: Annotated[str, typer.Option(help="Folder of labels.csv and the masks.")],
    ensemble: Annotated[str | None, typer.Option(help="Its recipes' weights; all alike without it.")] = None,
    most: Annotated[float, typer.Option(help="Most unconfidence of an object that is kept.")] = 0.01,
) -> None:
    """Predict masks for a dataset's test photographs to train on, for each fold by members that never saw it."""
    from backdrop.steps.label import label as step

    record = step(data, plan, [*members, *context.args], out, ensemble, most)
    for fold, kept in record.kept.items():
        print(f"fold {fold}  {kept} of {record.photographs} photographs kept")


@app.command(context_settings=MORE_MEMBERS)
def evaluate(
    context: typer.Context,
    data: Data,
    plan: Plans,
    members: Members,
    out: Annotated[str, typer.Option(help="Report folder: index.html, metrics.json, images.csv.")],
    ensemble: Annotated[str | None, typer.Option(help="Its recipes' weights; all alike without it.")] = None,
) -> None:
    """Judge members and their ensemble, out of fold and on the holdout."""
    from backdrop.steps.evaluate import evaluate as step

    evaluation = step(data, plan, [*members, *context.args], out, ensemble)
    for recipe, found in evaluation.oof.items():
        print(f"out of fold  {recipe:20} Dice {found.dice:.5f} on {found.objects} objects")
    held = evaluation.holdout.ensemble
    if held is not None:
        interval = f" ({held.low:.5f} to {held.high:.5f})" if held.low is not None and held.high is not None else ""
        print(f"holdout      {'ensemble':20} Dice {held.dice:.5f}{interval} on {held.objects} objects")
    print(f"{out}/index.html")


@app.command(context_settings=MORE_MEMBERS)
def register(
    context: typer.Context,
    data: Data,
    plan: Plans,
    members: Members,
    report: Annotated[str, typer.Option(help="Report folder that `backdrop evaluate` wrote.")],
    ensemble: Annotated[str, typer.Option(help="A shipped ensemble's name, or a YAML file.")],
    name: Name,
) -> None:
    """Make the ensemble a version of a registered model, and the challenger."""
    from backdrop.steps.register import register as step

    record = step(data, plan, [*members, *context.args], report, ensemble, name)
    print(f"models:/{name}/{record.version} {'registered' if record.created else 'was there already'}")


@app.command()
def promote(data: Data, name: Name) -> None:
    """Let the gate judge the challenger: the new champion, or the old one with reasons."""
    from backdrop.steps.promote import promote as step

    verdict = step(data, name)
    print(verdict.outcome)
    for reason in verdict.reasons:
        print(f"  {reason}")


@app.command()
def rollback(name: Name) -> None:
    """Make the previous champion the champion again."""
    from backdrop.steps.rollback import rollback as step

    print(f"models:/{name}@champion is version {step(name).version}")


@app.command()
def reap(
    idle_minutes: Annotated[float, typer.Option(help="Silent for so long, a run counts as gone.")] = 15,
) -> None:
    """Close MLflow's runs whose process is gone."""
    from datetime import datetime

    from backdrop.steps.reap import reap as step

    for run in step(idle_minutes):
        last = datetime.fromtimestamp(run.last_ms / 1000).astimezone()
        print(f"{run.run_id} {run.name}: killed, last seen {last:%Y-%m-%d %H:%M:%S %z}")


@app.command(context_settings=MORE_MEMBERS)
def predict(
    context: typer.Context,
    images: Annotated[str, typer.Argument(help="Folder or s3:// prefix that the photographs themselves lie in.")],
    out: Annotated[str, typer.Option(help="Folder of the masks.")],
    members: Members = [],  # noqa: B006  # as above
    model: Annotated[str | None, typer.Option(help="Registered model, such as models:/NAME@champion.")] = None,
    ensemble: Annotated[str | None, typer.Option(help="Weights and post-processing, for --members.")] = None,
    format: Annotated[str, typer.Option(help="png, rle or submission.")] = "png",  # noqa: A002  # the option's name
    sample_submission: Annotated[str | None, typer.Option(help="Kaggle's, whose images must be these.")] = None,
) -> None:
    """Cut out new photographs, by members or by a registered model; exit code 1 if some failed."""
    from backdrop.steps.predict import as_format
    from backdrop.steps.predict import predict as step

    record = step(images, out, [*members, *context.args], model, ensemble, as_format(format), sample_submission)
    print(f"{out}: masks of {record.images - record.failed} photographs")
    if record.failed:
        empty = ", and have an empty mask in the submission" if record.format == "submission" else ""
        print(f"{record.failed} photographs failed{empty}: see {out}/failed.csv")
    raise typer.Exit(1 if record.failed else 0)


@recipes.command()
def ls() -> None:
    """List the shipped recipes, a name first on each line."""
    from backdrop.config import shipped
    from backdrop.config import find_recipe

    for name in shipped("recipes"):
        print(f"{name:24} {find_recipe(name).description}")


@recipes.command()
def show(name: str) -> None:
    """Print a recipe's YAML."""
    from backdrop.config import recipe_text

    print(recipe_text(name), end="")


@recipes.command()
def cp(name: str, out: Path) -> None:
    """Copy a recipe to a file of your own."""
    from backdrop.common.errors import StorageError
    from backdrop.common.storage import write_bytes
    from backdrop.config import recipe_text

    if out.exists():
        raise StorageError(f"{out} exists", "Name another file")
    write_bytes(out, recipe_text(name).encode())
    print(f"{out}: give it a name of its own, then train it by its path")


@recipes.command()
def validate(name: str, overrides: Set = []) -> None:  # noqa: B006  # as above
    """Check a recipe, shipped or a file."""
    from backdrop.config import find_recipe

    print(f"{find_recipe(name, overrides).name} is valid")


@recipes.command()
def describe(
    name: str,
    overrides: Set = [],  # noqa: B006  # as above
    as_json: Annotated[bool, typer.Option("--json", help="Print a record for machines.")] = False,
) -> None:
    """Say what a recipe's network costs and how its learning rate goes."""
    from backdrop.steps.describe import describe as step

    found = step(name, overrides)
    if as_json:
        print(found.model_dump_json())
        return
    print(f"{found.parameters:,} parameters, {found.macs / 1e9:.1f} GMAC at {found.input}")
    print("learning rate by epoch:", *(f"{rate:g}" for rate in found.learning_rates))


if __name__ == "__main__":
    main()
