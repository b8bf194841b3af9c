"""Commands that make, check and split datasets."""

from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Json, Objects, Out, Seed
from backdrop.cli.output import check_text, import_text
from backdrop.common.words import count

app = typer.Typer()


@command(app, "backdrop sample photos --objects 14 --views 8 --size 384x256")
def sample(
    out: Out,
    objects: Annotated[int, typer.Option(metavar="N", help="Number of cars.")] = 14,
    views: Annotated[int, typer.Option(metavar="N", help="Photographs of each car.")] = 16,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size in pixels.")] = "768x512",
    seed: Seed = 0,
) -> None:
    """Render a synthetic studio dataset to try things out."""
    from backdrop.steps.sample import sample as step

    record = step(out, objects, views, size, seed)
    print(f"{out}: {count(record.objects, 'object')} x {count(record.views, 'view')}, {record.size}")


@command(app, "backdrop import phone photos --dry-run", name="import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder or s3:// prefix of photographs, in folders or not.")
    ],
    out: Out,
    pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Read names by its groups object and view.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of masks or labelme files, or a COCO file.")
    ] = None,
    label: Annotated[
        list[str], typer.Option(metavar="NAME", help="Take only this label of COCO or labelme. Repeatable.")
    ] = [],  # noqa: B006  # typer wants the default itself and never changes it
    threshold: Annotated[
        int | None, typer.Option(metavar="LEVEL", help="Lowest level, 1 to 255, of the product in a soft mask.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written, and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make a dataset from a folder of photographs.

    Exit code 1 if a photograph is left out.
    """
    from backdrop.steps.import_ import ImportOptions
    from backdrop.steps.import_ import import_photos as step

    options = ImportOptions(pattern, masks, tuple(label), threshold)
    record = step(source, out, options, dry_run)
    print(record.model_dump_json(indent=1) if as_json else import_text(record, out, dry_run))
    raise typer.Exit(1 if record.missed else 0)


@command(app, "backdrop check photos --ensemble demo")
def check(
    data: Data,
    ensemble: Annotated[
        list[str],
        typer.Option(metavar="ENSEMBLE", help="Also find files that this ensemble's recipes can't use. Repeatable."),
    ] = [],  # noqa: B006  # typer wants the default itself and never changes it
    objects: Objects = None,
    as_json: Json = False,
) -> None:
    """Check a dataset for faults.

    Exit code 1 if it has any.
    """
    from backdrop.steps.check import check as step

    report = step(data, ensemble, objects)
    print(report.model_dump_json(indent=1) if as_json else check_text(report))
    raise typer.Exit(1 if report.errors else 0)


@command(app, "backdrop split photos --out plan.csv --folds 5 --holdout 0.15")
def split(
    data: Data,
    out: Annotated[str, typer.Option(metavar="CSV", help="The fold plan to write.")],
    folds: Annotated[int, typer.Option(metavar="N", help="Number of folds.")] = 5,
    holdout: Annotated[float, typer.Option(metavar="SHARE", help="Share of the objects in the holdout.")] = 0.15,
    by: Annotated[str, typer.Option(metavar="RULE", help="Balance by area, area_rank, stratified or random.")] = "area",
    view: Annotated[
        str | None, typer.Option(metavar="VIEW", help="With area_rank: rank by the area of this view only.")
    ] = None,
    seed: Seed = 0,
    objects: Objects = None,
    extend: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="Keep the folds of this older plan's objects; or models:/NAME@champion."),
    ] = None,
    holdout_from: Annotated[
        str | None, typer.Option(metavar="CSV", help="Use the objects and the holdout of this plan.")
    ] = None,
) -> None:
    """Assign every object to a fold or to the holdout."""
    from backdrop.config.explain import as_choice
    from backdrop.config.folds import By, Rule
    from backdrop.steps.split import split as step

    rule = Rule(folds, holdout, as_choice("--by", by, By), seed, view)
    record = step(data, out, rule, objects, extend, holdout_from)
    for name, number in record.objects.items():
        print(f"{name:>8}  {count(number, 'object'):>12}  mean mask area {record.areas[name]:,.0f} pixels")
    print(f"{out}  data {record.data}")
