"""Commands that use members: evaluation and prediction, and what to do about new photographs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Members, Model, Plans, Student, Weights
from backdrop.cli.output import passed_over_text
from backdrop.common.errors import ConfigError
from backdrop.common.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdrop.evaluation.records import Comparison, Contribution, Exit, Spread
    from backdrop.inference.compose import PictureOptions
    from backdrop.steps.predict import Format

FIRST = 10  # objects that `next` prints

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
    baseline: Annotated[
        list[str], typer.Option(metavar="NAME=FOLDER", help="Compare with these masks of any program. Repeatable.")
    ] = [],  # noqa: B006  # typer wants the default itself and never changes it
    budget_ms: Annotated[
        float | None, typer.Option(metavar="N", help="Choose members that take at most N ms a photograph here.")
    ] = None,
    out_ensemble: Annotated[
        str | None, typer.Option(metavar="YAML", help="Write the chosen recipes' ensemble to this file.")
    ] = None,
) -> None:
    """Judge members and their ensemble.

    Out of fold, and on the holdout.
    """
    from backdrop.common.storage import within
    from backdrop.evaluation.budget import as_budget, read_reasons
    from backdrop.report import prediction_text
    from backdrop.steps.evaluate import evaluate as step

    evaluation = step(data, plan, members, out, ensemble, model, baseline, as_budget(budget_ms, out_ensemble))
    for recipe, score in evaluation.oof.items():
        print(f"out of fold  {recipe:20} Dice {score.dice:.5f} on {count(score.objects, 'object')}")
    held = evaluation.holdout.ensemble
    if held is not None:
        interval = _interval(held.low, held.high, ".5f")
        print(f"holdout      {'ensemble':20} Dice {held.dice:.5f}{interval} on {count(held.objects, 'object')}")
    _print_baselines(evaluation.comparisons)
    _print_contributions(evaluation.contributions, out)
    _print_exit(evaluation.early_exit)
    if evaluation.predicted_dice:
        print(prediction_text(evaluation.predicted_dice))
    if out_ensemble:
        print(*read_reasons(out_ensemble), sep="\n")
    print(within(out, "index.html"))


@command(app, "backdrop review photos --plan plan.csv --out doubts --members tiny-*")
def review(
    data: Data,
    plan: Plans,
    members: Members,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Pages to look through, and review.csv.")],
    ensemble: Weights = None,
    share: Annotated[float, typer.Option(metavar="SHARE", help="Share of the photographs to show.")] = 0.1,
) -> None:
    """Find masks that are probably wrong.

    By members that did not train on them. You decide on each in a page.
    """
    from backdrop.common.storage import within
    from backdrop.steps.review import review as step

    record = step(data, plan, members, out, ensemble, share)
    print(f"{record.doubtful:,} of {count(record.photographs, 'mask')} doubtful, {record.shown:,} shown")
    for kind, number in record.kinds.items():
        print(f"{kind:18} {number:6,}")
    print(within(out, "index.html"))


def _print_baselines(comparisons: "Sequence[Comparison]") -> None:
    """What the ensemble gains over each baseline, in a line."""
    for one in comparisons:
        if one.kind == "baseline":
            print(f"{'baseline':12} {one.name:20} Dice {one.dice.dice:.5f}, ensemble {_gain_text(one.gain)}")


def _gain_text(gain: "Spread") -> str:
    """`higher by 0.00150 (-0.00020 to +0.00300)`; a lower value's interval is that of the loss."""
    low, mean, high = gain.low, gain.mean, gain.high
    if mean < 0:
        low, mean, high = None if high is None else -high, -mean, None if low is None else -low
    return f"{'lower' if gain.mean < 0 else 'higher'} by {mean:.5f}{_interval(low, high)}"


def _interval(low: float | None, high: float | None, form: str = "+.5f", factor: float = 1) -> str:
    """An interval times a factor, as it follows a mean; empty if there is none."""
    return "" if low is None or high is None else f" ({factor * low:{form}} to {factor * high:{form}})"


def _print_contributions(contributions: "Sequence[Contribution]", out: str) -> None:
    """What each recipe adds out of fold, and how long a member of it takes, in a line."""
    from backdrop.evaluation.records import read_speed

    recipes = [one for one in contributions if one.part == "oof"]
    if recipes:
        speed = read_speed(out)
        for one in recipes:
            interval = _interval(one.added.low, one.added.high)
            time = f"{1000 * speed.seconds[one.name]:.1f} ms a photograph"
            print(f"{'adds':12} {one.name:20} Dice {one.added.mean:+.5f}{interval}; {time}")


def _print_exit(learned: "Exit | None") -> None:
    """What an early exit does, in a line, and what it saves and costs, in a table."""
    from backdrop.report import exit_text

    if learned is None:
        return
    print(exit_text(learned))
    for title, saving in {"out of fold": learned.oof, "holdout": learned.holdout if learned.rule else None}.items():
        if saving:
            saved, lost = saving.saved, saving.lost
            shares, dice = _interval(saved.low, saved.high, ".1f", 100), _interval(lost.low, lost.high)
            stopped = f"{saving.stopped} of {count(saving.images, 'photograph')} stopped"
            gain = f"saves {100 * saved.mean:.1f} %{shares}, loses {lost.mean:+.5f}{dice}"
            print(f"{title:12} {'early exit':20} {gain}; {stopped}")


@command(app, "backdrop predict photos --model models:/cars@champion --out cut-outs")
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Files, folders, patterns, s3:// addresses; or - for one photograph on stdin."
        ),
    ],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Folder for the results.")] = None,
    members: Members = [],  # noqa: B006  # typer wants the default itself and never changes it
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Registered model: models:/NAME@champion.")] = None,
    student: Student = False,
    ensemble: Annotated[
        str | None, typer.Option(metavar="ENSEMBLE", help="Weights and post-processing, for --members.")
    ] = None,
    format: Annotated[  # noqa: A002  # the option's name
        str, typer.Option(metavar="FORMAT", help="cutout, mask, alpha, rle or submission.")
    ] = "cutout",
    background: Annotated[
        str | None, typer.Option(metavar="COLOR|FILE", help="#rrggbb, a CSS color's name, or a picture.")
    ] = None,
    crop: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Crop to the product, with this margin of its longer side.")
    ] = None,
    type: Annotated[str, typer.Option(metavar="TYPE", help="Cut-outs are png, webp or jpeg files.")] = "png",  # noqa: A002  # as above
    sample_submission: Annotated[
        str | None, typer.Option(metavar="CSV", help="Kaggle's sample: your photographs must be those that it lists.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Predict only a share of one folder: 2/4. See `backdrop merge`.")
    ] = "",
) -> None:
    """Cut out new photographs.

    By a registered model or by members. Exit code 1 if a photograph failed.
    """
    from backdrop.common.storage import exists, within
    from backdrop.config.explain import as_choice
    from backdrop.data.photographs import parse_shard
    from backdrop.inference.compose import PictureOptions, PictureType
    from backdrop.steps.predict import Format, read_background
    from backdrop.steps.predict import predict as step

    chosen = as_choice("--format", format, Format)
    if student:
        model = _student_of(model)
    behind = None if background is None else read_background(background)
    options = PictureOptions(as_choice("--type", type, PictureType), behind, crop)
    if inputs == ["-"]:
        if out is not None or sample_submission is not None or shard:
            remedy = "Leave --out, --sample-submission and --shard out"
            raise ConfigError("The picture of - goes to standard output", remedy)
        _predict_stdin(members, model, ensemble, chosen, options)
        return
    if out is None:
        raise ConfigError("The folder for the results is missing", "Name it with --out")
    chosen_inputs = parse_shard(shard, inputs) if shard else inputs
    record = step(chosen_inputs, out, members, model, ensemble, chosen, sample_submission, options)
    print(f"{out}: {_results(record.format)} of {count(record.images - record.failed, 'photograph')}")
    if record.failed:
        empty = "; the submission has empty masks for them" if record.format == "submission" else ""
        print(f"{count(record.failed, 'photograph')} failed{empty}: see {within(out, 'failed.csv')}")
    if exists(within(out, "doubtful.html")):
        print(f"the most doubtful: {within(out, 'doubtful.html')}")
    if record.passed_over:
        print(passed_over_text(record.passed_over))
    raise typer.Exit(1 if record.missed else 0)


@command(app, "backdrop merge part-1 part-2 part-3 --out cut-outs")
def merge(
    parts: Annotated[
        list[str], typer.Argument(metavar="SHARE", help="Outputs of `predict --shard`, all of one folder.")
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder for the results of all shares.")],
) -> None:
    """Put the results of all shares of a folder together.

    Adds them to earlier results of the same kind. Exit code 1 if a photograph failed.
    """
    from backdrop.common.storage import within
    from backdrop.steps.merge import merge as step

    record = step(parts, out)
    print(
        f"{out}: {_results(record.format)} of {count(record.images - record.failed, 'photograph')}, {record.new:,} new"
    )
    if record.failed:
        print(f"{count(record.failed, 'photograph')} failed: see {within(out, 'failed.csv')}")
    raise typer.Exit(1 if record.failed else 0)


@command(app, "backdrop drift --reference models:/cars@champion --current new --out drift")
def drift(
    reference: Model,
    current: Annotated[
        str, typer.Option(metavar="FOLDER", help="New photographs: a folder, file, pattern or s3:// address.")
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Page, drift.json and statistics.csv.")],
    alpha: Annotated[float, typer.Option(metavar="P", help="Chance of a false alarm if nothing has changed.")] = 0.01,
) -> None:
    """Say whether new photographs still look like the known ones.

    Like those that the model was judged on. Exit code 3 if not, 2 if there are too few objects to tell.
    """
    from backdrop.common.storage import within
    from backdrop.report.drift import moved_lines, verdict_line
    from backdrop.steps.drift import drift as step
    from backdrop.steps.drift import notes

    record = step(reference, current, out, alpha)
    print(verdict_line(record))
    for line in (*notes(record), *moved_lines(record)):
        print(line)
    if record.passed_over:
        print(passed_over_text(record.passed_over))
    print(within(out, "index.html"))
    raise typer.Exit({"no drift": 0, "unclear": 2, "drift": 3}[record.verdict])


@command(app, "backdrop next photos --model models:/cars@champion --out next", name="next")
def next_objects(
    data: Data,
    model: Model,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder for next.csv.")],
    number: Annotated[int, typer.Option("--count", metavar="N", help="How many objects to choose.")] = 20,
) -> None:
    """Choose objects of test/ to label next.

    Those whose masks are doubtful, and that are unlike labeled ones and one another.
    """
    from backdrop.common.storage import within
    from backdrop.steps.next import next as step

    for one in step(data, model, out, number)[:FIRST]:
        facts = f"{count(one.photographs, 'photograph')}, doubt {one.doubt:.4f}, distance {one.distance:.2f}"
        print(f"{one.rank:3} {one.object:20} {facts}")
    print(within(out, "next.csv"))


def _student_of(model: str | None) -> str:
    from backdrop.tracking.students import student_address  # slow: imports mlflow

    if model is None:
        raise ConfigError("--student needs a registered model", "Name it with --model models:/NAME@champion")
    return student_address(model)


def _results(chosen: str) -> str:
    return {"cutout": "cut-outs", "alpha": "alpha"}.get(chosen, "masks")


def _predict_stdin(
    members: list[str], model: str | None, ensemble: str | None, chosen: "Format", options: "PictureOptions"
) -> None:
    """Reads a photograph from standard input, and writes its picture to standard output."""
    from backdrop.steps.predict import predict_one

    if sys.stdin is None or sys.stdout is None:
        raise ConfigError("Standard input or output is closed", "Connect both: <PHOTOGRAPH >PICTURE")
    picture = predict_one(sys.stdin.buffer.read(), members, model, ensemble, chosen, options)
    sys.stdout.buffer.write(picture)
