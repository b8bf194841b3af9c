"""What components share: short Markdown pages for the Kubeflow UI, figures for its metrics, and YAML as a file.

Each task pays for what this imports, so it imports records only to name them.
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
    from backdrop.evaluation.metrics import Estimate, Evaluation
    from backdrop.steps.check import CheckReport
    from backdrop.steps.train import TrainRecord
    from backdrop.tuning.results import Search

SHOWN_FAULTS = 200  # the UI cuts a long page off without saying so
SHOWN_TRIALS = 20
Figures = dict[str, float]


@contextmanager
def as_file(text: str) -> Iterator[str]:
    """Path of a YAML file with this text, for the steps, which read files."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "given.yaml")
        path.write_text(text, encoding="utf-8")
        yield str(path)


@contextmanager
def ensemble_file(ensemble: str, tuned: bool, members: Sequence[str]) -> Iterator[str]:
    """Path of the ensemble's YAML; if it was tuned, with the schedules that its members have.

    They aren't handed on as text: KFP breaks a list of texts that have more than one line.
    """
    with as_file(ensemble) as path:
        if not tuned:
            yield path
            return
        from backdrop.config import find_ensemble
        from backdrop.config.records import dump_yaml
        from backdrop.steps.members import open_member

        whole = find_ensemble(path).tuned([open_member(address).recipe for address in members])
        with as_file(dump_yaml(whole)) as changed:
            yield changed


def search_figures(search: Search) -> Figures:
    """The chosen trial's Dice, how many there were, and what it gains over the best preset, with its interval."""
    chosen, compared = search.trial(search.chosen), search.comparison
    figures = {"dice": chosen.dice or 0.0, "trials": float(len(search.trials))}
    gain = {"gain": compared.difference, "low": compared.low, "high": compared.high} if compared else {}
    return figures | gain


def search_page(search: Search) -> str:
    """What a search came to: the chosen schedule, and the best trials."""
    compared = f"{search.comparison.sentence}.\n\n" if search.comparison else ""
    rows = [(one.name, f"{one.dice:.5f}", str(len(one.dices)), one.status) for one in search.trials if one.dice]
    best = sorted(rows, key=lambda row: row[1], reverse=True)[:SHOWN_TRIALS]
    return f"# {search.chosen}\n\n{compared}" + _table(("trial", "Dice", "epochs", ""), best)


def check_page(report: CheckReport) -> str:
    """What a dataset holds, and its faults as a table."""
    title = f"{count(report.images, 'photograph')} of {count(report.objects, 'object')}"
    head = f"# {title}\n\nSizes: {', '.join(report.sizes)}\n\n"
    if not report.faults:
        return f"{head}No faults.\n"
    rows = [(fault.level, fault.file, fault.what, fault.remedy) for fault in report.faults[:SHOWN_FAULTS]]
    more = len(report.faults) - len(rows)
    return head + _table(("", "file", "fault", "remedy"), rows) + (f"\n… and {more} more.\n" if more else "")


def check_failure(report: CheckReport) -> str:
    """What stops the pipeline, in a line or two."""
    first = report.errors[0]
    errors = len(report.errors)
    rest = f" ({errors} errors in all: see `backdrop check {report.data}`)" if errors > 1 else ""
    return f"{first.file} {first.what}. {first.remedy}.{rest}"


def member_figures(record: TrainRecord) -> Figures:
    """Out-of-fold Dice, epochs, seconds of training; `reused` is 1 for a member that was there already."""
    member = record.member
    return {
        "dice": member.dice,
        "epochs": member.epochs,
        "selected_epoch": member.selected_epoch,
        "seconds": member.seconds,
        "reused": int(record.reused),
    }


def evaluation_figures(evaluation: Evaluation) -> Figures:
    """Dice of each recipe out of fold, and of the ensemble on the holdout with its interval."""
    figures = {f"oof_{recipe}": estimate.dice for recipe, estimate in evaluation.oof.items()}
    held = evaluation.holdout.ensemble
    if held is not None:
        named = {"holdout": held.dice, "holdout_low": held.low, "holdout_high": held.high, "objects": held.objects}
        figures |= {name: value for name, value in named.items() if value is not None}
    return figures


def evaluation_page(evaluation: Evaluation) -> str:
    """Out-of-fold Dice of each recipe, holdout Dice of each member and of the ensemble."""
    rows = [(f"{recipe}, out of fold", *_cells(found)) for recipe, found in evaluation.oof.items()]
    if evaluation.oof_ensemble is not None:
        rows.append(("**ensemble, out of fold**", *_cells(evaluation.oof_ensemble)))
    rows += [(f"{name}, holdout", *_cells(found)) for name, found in evaluation.holdout.members.items()]
    if evaluation.holdout.ensemble is not None:
        rows.append(("**ensemble, holdout**", *_cells(evaluation.holdout.ensemble)))
    return "# Evaluation\n\n" + _table(("", "Dice", "95 % interval", "objects"), rows)


def verdict_figures(verdict: Verdict) -> Figures:
    """The verdict's numbers; `promoted` is 1 or 0."""
    figures = {"promoted": float(verdict.outcome == "promoted"), "objects": float(verdict.objects)}
    named = {"difference": verdict.difference, "low": verdict.low, "high": verdict.high}
    return figures | {name: value for name, value in named.items() if value is not None}


def verdict_page(verdict: Verdict) -> str:
    """The verdict with its reasons."""
    title = f"{verdict.outcome}: {verdict.summary}" if verdict.summary else verdict.outcome
    return f"# {title.capitalize()}\n\n" + "".join(f"- {reason}\n" for reason in verdict.reasons)


def _cells(found: Estimate) -> tuple[str, str, str]:
    interval = "" if found.low is None or found.high is None else f"{found.low:.5f} to {found.high:.5f}"
    return f"{found.dice:.5f}", interval, str(found.objects)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """A bar in a file's name would end the cell."""
    return " ".join(text.replace("|", r"\|").split())
