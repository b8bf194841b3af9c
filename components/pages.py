"""What components share: short Markdown pages for Kubeflow's UI, figures for its metrics, and YAML as a file.

Every task waits for this module's imports, so records are imported for type checking only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from backdrop.common.words import count

if TYPE_CHECKING:
    from backdrop.evaluation.gate import Verdict
    from backdrop.evaluation.records import Estimate, Evaluation
    from backdrop.report import Standing
    from backdrop.steps.check import CheckReport
    from backdrop.steps.plan import PlanRecord
    from backdrop.steps.shard import ShardPlan
    from backdrop.steps.train import TrainRecord
    from backdrop.tuning.results import Search

SHOWN_FAULTS = 200  # the UI silently truncates long pages
SHOWN_TRIALS = 20
Figures = dict[str, float]


@contextmanager
def as_file(text: str) -> Iterator[str]:
    """Path of a temporary YAML file with this text, for steps, which read files."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(text, encoding="utf-8")
        yield str(path)


@contextmanager
def recipe_file(ensemble: str, name: str, searched: str = "") -> Iterator[str]:
    """Path of a temporary file with a recipe's YAML: as a search wrote it, or else as the ensemble's file has it."""
    from backdrop.config import find_ensemble
    from backdrop.config.records import dump_yaml

    recipes = {} if searched else {part.resolve().name: part.resolve() for part in find_ensemble(ensemble).parts()}
    with as_file(searched or dump_yaml(recipes[name])) as path:
        yield path


@contextmanager
def ensemble_file(ensemble: str, tuned: bool, members: Sequence[str]) -> Iterator[str]:
    """Path of the ensemble's YAML; if it was tuned, of a temporary file with its members' schedules.

    The schedules are read from the members: KFP breaks a list of multi-line texts.
    """
    if not tuned:
        yield ensemble
        return
    from backdrop.config import find_ensemble
    from backdrop.config.records import dump_yaml
    from backdrop.steps.members import open_member

    tuned_ensemble = find_ensemble(ensemble).tuned([open_member(address).recipe for address in members])
    with as_file(dump_yaml(tuned_ensemble)) as path:
        yield path


def search_figures(search: Search) -> Figures:
    """The chosen trial's Dice, the number of trials, and the gain over the best preset with its interval."""
    chosen, compared = search.trial(search.chosen), search.comparison
    figures = {"dice": chosen.dice or 0.0, "trials": float(len(search.trials))}
    gain = {"gain": compared.difference, "low": compared.low, "high": compared.high} if compared else {}
    return figures | gain


def search_page(search: Search) -> str:
    """A search's result: the chosen schedule and the best trials."""
    compared = f"{search.comparison.sentence}.\n\n" if search.comparison else ""
    trials = [trial for trial in search.trials if trial.dice]
    rows = [(trial.name, f"{trial.dice:.5f}", str(len(trial.dices)), trial.status) for trial in trials]
    best = sorted(rows, key=lambda row: row[1], reverse=True)[:SHOWN_TRIALS]
    return f"# {search.chosen}\n\n{compared}" + _table(("trial", "Dice", "epochs", ""), best)


def check_page(report: CheckReport) -> str:
    """A dataset's size, and its faults as a table."""
    title = f"{count(report.images, 'photograph')} of {count(report.objects, 'object')}"
    head = f"# {title}\n\nSizes: {', '.join(report.sizes)}\n\n"
    if not report.faults:
        return f"{head}No faults.\n"
    rows = [(fault.level, fault.file, fault.what, fault.remedy) for fault in report.faults[:SHOWN_FAULTS]]
    more = len(report.faults) - len(rows)
    return head + _table(("", "file", "fault", "remedy"), rows) + (f"\n… and {more} more.\n" if more else "")


def check_failure(report: CheckReport) -> str:
    """The error that stops the pipeline, in a line."""
    first = report.errors[0]
    errors = len(report.errors)
    rest = f" (the first of {errors} errors: see `backdrop check {report.data}`)" if errors > 1 else ""
    return f"{first.file} {first.what}. {first.remedy}.{rest}"


def plan_page(record: PlanRecord, name: str) -> str:
    """What a run has to make, or that there is nothing to be done."""
    if record.missing:
        found = "".join(f"- {member}: Dice {one.dice:.5f}\n" for member, one in record.members.items())
        missing = "".join(f"- {task}\n" for task in record.missing)
        return f"# {count(len(record.missing), 'part')} to make\n\n{missing}" + (
            f"\nFound:\n\n{found}" if found else ""
        )
    version = record.registration.version if record.registration else None
    champion = f"models:/{name}/{record.champion}" if record.champion else "none"
    return (
        "# Nothing to do\n\nEverything that this run would make exists: "
        f"{count(len(record.members), 'member')}, their evaluation, models:/{name}/{version} and its verdict. "
        f"The champion is {champion}.\n"
    )


def shard_page(plan: ShardPlan) -> str:
    """How many photographs are new, and which shares are to be predicted."""
    if not plan.versions:
        return "# Nothing to do\n\nNo photograph is new.\n"
    numbers = ", ".join(map(str, plan.missing)) or "none; all are predicted, and only to be merged"
    return f"# {count(len(plan.versions), 'photograph')} for {plan.model}\n\nShares to predict: {numbers}\n"


def member_figures(record: TrainRecord) -> Figures:
    """Out-of-fold Dice, epochs, seconds of training; `reused` is 1 for a finished member that was reused."""
    member = record.member
    return {
        "dice": member.dice,
        "epochs": member.epochs,
        "selected_epoch": member.selected_epoch,
        "seconds": member.seconds,
        "reused": int(record.reused),
    }


def evaluation_figures(evaluation: Evaluation) -> Figures:
    """Out-of-fold Dice of each recipe, and the ensemble's Dice on the holdout with its interval."""
    figures = {f"oof_{recipe}": estimate.dice for recipe, estimate in evaluation.oof.items()}
    score = evaluation.holdout.ensemble
    if score is not None:
        named = {"holdout": score.dice, "holdout_low": score.low, "holdout_high": score.high, "objects": score.objects}
        figures |= {name: value for name, value in named.items() if value is not None}
    learned = evaluation.predicted_dice
    if learned and learned.holdout and learned.holdout.auroc is not None:
        figures["auroc_of_predicted_dice"] = learned.holdout.auroc
    return figures


def detector_curve(evaluation: Evaluation) -> tuple[list[float], list[float], list[float]] | None:
    """The ROC curve of the predicted Dice as a detector of the worst 5 % of the holdout's photographs, for KFP.

    Returns:
        False positive rates, true positive rates, and confidences, which are 1 minus the predicted Dice; None without
        a holdout, or if no Dice is predicted.
    """
    learned = evaluation.predicted_dice
    roc = learned.holdout.roc if learned and learned.holdout else ()
    if not roc:
        return None
    false, true, limits = map(list, zip(*roc, strict=True))
    return false, true, [1 - limit for limit in limits]


def evaluation_page(evaluation: Evaluation) -> str:
    """Out-of-fold Dice of each recipe, holdout Dice of each member and of the ensemble, and what Dice is predicted."""
    from backdrop.report import prediction_text

    rows = [(f"{recipe}, out of fold", *_cells(score)) for recipe, score in evaluation.oof.items()]
    if evaluation.oof_ensemble is not None:
        rows.append(("**ensemble, out of fold**", *_cells(evaluation.oof_ensemble)))
    rows += [(f"{name}, holdout", *_cells(score)) for name, score in evaluation.holdout.members.items()]
    if evaluation.holdout.ensemble is not None:
        rows.append(("**ensemble, holdout**", *_cells(evaluation.holdout.ensemble)))
    predicted = f"\n{prediction_text(evaluation.predicted_dice)}\n" if evaluation.predicted_dice else ""
    return "# Evaluation\n\n" + _table(("", "Dice", "95 % interval", "objects"), rows) + predicted


def verdict_figures(verdict: Verdict) -> Figures:
    """The verdict's figures; `promoted` is 1 or 0."""
    figures = {"promoted": float(verdict.outcome == "promoted"), "objects": float(verdict.objects)}
    named = {"difference": verdict.difference, "low": verdict.low, "high": verdict.high}
    return figures | {name: value for name, value in named.items() if value is not None}


def verdict_page(verdict: Verdict, standing: Standing) -> str:
    """The verdict with its reasons, and where it stands in the model's history."""
    from backdrop.report.verdict import standing_text

    title = f"{verdict.outcome}: {verdict.summary}" if verdict.summary else verdict.outcome
    link = f" [In MLflow]({standing.page})" if standing.page else ""
    head = f"# {title.capitalize()}\n\n{standing_text(verdict, standing)}{link}\n\n"
    return head + "".join(f"- {reason}\n" for reason in verdict.reasons)


def _cells(score: Estimate) -> tuple[str, str, str]:
    interval = "" if score.low is None or score.high is None else f"{score.low:.5f} to {score.high:.5f}"
    return f"{score.dice:.5f}", interval, str(score.objects)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Escapes bars, which would end the cell."""
    return " ".join(text.replace("|", r"\|").split())
