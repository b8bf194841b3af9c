"""Commands that train: what it takes, members, schedules, pseudo-labels."""

from typing import Annotated

import typer

from backdrop.cli.options import MORE_MEMBERS, Data, Members, Plan, Plans, Set, SetFile
from backdrop.cli.output import estimate_text, search_text

app = typer.Typer()


@app.command()
def estimate(
    ensemble: Annotated[str, typer.Argument(help="A shipped ensemble's name, or a YAML file.")],
    data: Annotated[str, typer.Option(help="The dataset that it will be trained on.")],
    price: Annotated[float | None, typer.Option(help="Of one device for an hour, in any currency.")] = None,
    max_gpu_hours: Annotated[float | None, typer.Option(help="Refuse an ensemble that takes more.")] = None,
) -> None:
    """Measure for moments what training an ensemble will take: hours, memory, devices, money."""
    from backdrop.steps.estimate import afford
    from backdrop.steps.estimate import estimate as step

    record = step(ensemble, data)
    print(estimate_text(record, price))
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
    from backdrop.config.folds import as_folds
    from backdrop.config.records import parse
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
