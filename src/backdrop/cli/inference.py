"""Commands that use members: evaluation and prediction."""

from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Members, Plans, Weights
from backdrop.cli.output import passed_over_text
from backdrop.common.words import count

app = typer.Typer()


@command(app, "backdrop evaluate photos --plan plan.csv --out report --members tiny-*")
def evaluate(
    data: Data,
    plan: Plans,
    members: Members,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Report: index.html, metrics.json, images.csv.")],
    ensemble: Weights = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Judge this model's champion, too, so that promote needn't.")
    ] = None,
) -> None:
    """Judge members and their ensemble.

    Out of fold, and on the holdout.
    """
    from backdrop.steps.evaluate import evaluate as step

    evaluation = step(data, plan, members, out, ensemble, model)
    for recipe, score in evaluation.oof.items():
        print(f"out of fold  {recipe:20} Dice {score.dice:.5f} on {count(score.objects, 'object')}")
    held = evaluation.holdout.ensemble
    if held is not None:
        interval = f" ({held.low:.5f} to {held.high:.5f})" if held.low is not None and held.high is not None else ""
        print(f"holdout      {'ensemble':20} Dice {held.dice:.5f}{interval} on {count(held.objects, 'object')}")
    print(f"{out}/index.html")


@command(app, "backdrop predict new-photos --model models:/cars@champion --out masks")
def predict(
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="Folder or s3:// prefix that holds the photographs themselves.")
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder for the masks.")],
    members: Members = [],  # noqa: B006  # typer wants the default itself and never changes it
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Registered model: models:/NAME@champion.")] = None,
    ensemble: Annotated[
        str | None, typer.Option(metavar="ENSEMBLE", help="Weights and post-processing, for --members.")
    ] = None,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="png, rle or submission.")] = "png",  # noqa: A002  # the option's name
    sample_submission: Annotated[
        str | None, typer.Option(metavar="CSV", help="Kaggle's sample: your photographs must be those that it lists.")
    ] = None,
) -> None:
    """Cut out new photographs.

    By a registered model or by members. Exit code 1 if a photograph has no mask.
    """
    from backdrop.config.explain import as_choice
    from backdrop.steps.predict import Format
    from backdrop.steps.predict import predict as step

    chosen = as_choice("--format", format, Format)
    record = step(images, out, members, model, ensemble, chosen, sample_submission)
    print(f"{out}: masks of {count(record.images - record.failed, 'photograph')}")
    if record.failed:
        empty = "; the submission has empty masks for them" if record.format == "submission" else ""
        print(f"{count(record.failed, 'photograph')} failed{empty}: see {out}/failed.csv")
    if record.passed_over:
        print(passed_over_text(record.passed_over))
    raise typer.Exit(1 if record.missed else 0)
