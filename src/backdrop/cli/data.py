"""Commands that look at photographs and split them."""

from typing import Annotated

import typer

from backdrop.cli.options import Data
from backdrop.cli.output import check_text

app = typer.Typer()


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
    ensemble: Annotated[
        list[str], typer.Option(help="Also find what this ensemble's recipes would refuse; may be repeated.")
    ] = [],  # noqa: B006  # typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="Print a record for machines.")] = False,
) -> None:
    """Look for everything that can be wrong with a dataset; exit code 1 if something is."""
    from backdrop.steps.check import check as step

    report = step(data, ensemble)
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
    from backdrop.config.folds import as_by
    from backdrop.steps.split import split as step

    record = step(data, out, folds, holdout, as_by(by), seed, objects, extend, view, holdout_from)
    for name, count in record.objects.items():
        print(f"{name:>8}  {count:4} objects  mean mask area {record.areas[name]:,.0f} pixels")
    print(f"{out}  {record.data}")
