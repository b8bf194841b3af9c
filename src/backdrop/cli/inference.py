"""Commands that use members: judge them, cut out photographs."""

from typing import Annotated

import typer

from backdrop.cli.options import MORE_MEMBERS, Data, Members, Plans
from backdrop.cli.output import count, passed_over_text

app = typer.Typer()


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
    """Cut out new photographs, by members or by a registered model; exit code 1 if one has no mask."""
    from backdrop.steps.predict import as_format
    from backdrop.steps.predict import predict as step

    record = step(images, out, [*members, *context.args], model, ensemble, as_format(format), sample_submission)
    print(f"{out}: masks of {count(record.images - record.failed, 'photograph')}")
    if record.failed:
        empty = ", and have an empty mask in the submission" if record.format == "submission" else ""
        print(f"{count(record.failed, 'photograph')} failed{empty}: see {out}/failed.csv")
    if record.passed_over:
        print(passed_over_text(record.passed_over))
    raise typer.Exit(1 if record.missed else 0)
