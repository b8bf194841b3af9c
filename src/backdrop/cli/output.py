"""Formats the records that steps return, for the terminal."""

import os
from datetime import datetime
from typing import TYPE_CHECKING

from backdrop.common.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdrop.data.dataset import Fault
    from backdrop.data.listing import PassedOver
    from backdrop.steps.check import CheckReport
    from backdrop.steps.estimate import CostEstimate
    from backdrop.steps.import_ import ImportRecord
    from backdrop.steps.verify import Verification
    from backdrop.tracking.ledger import Entry
    from backdrop.tracking.model_list import ListedModel
    from backdrop.tuning.results import Search


SHOWN = 20  # of each kind of warning, and files passed over


def check_text(report: "CheckReport") -> str:
    """A dataset's counts, a line per fault, and the files that were passed over."""
    counts = ", ".join(
        [count(report.objects, "object"), count(report.images, "photograph"), count(len(report.views), "view")]
    )
    lines = [", ".join([f"{report.data}: {counts}", *report.sizes])]
    kinds: dict[tuple[str, str], list[Fault]] = {}
    for fault in report.faults:
        kinds.setdefault((fault.level, fault.remedy), []).append(fault)  # what is wrong may name another file
    for (level, _), faults in kinds.items():
        shown = faults if level == "error" else faults[:SHOWN]
        lines += [f"{level}: {one.error()}" for one in shown]
        if len(faults) > len(shown):
            lines.append(f"{level}: … and {len(faults) - len(shown):,} more like this")
    named = {fault.file for fault in report.faults}
    if report.passed_over:
        lines.append(passed_over_text([one for one in report.passed_over if one.file not in named], report.passed_over))
    warnings = len(report.faults) - len(report.errors)
    return os.linesep.join([*lines, f"{count(len(report.errors), 'error')}, {count(warnings, 'warning')}"])


def import_text(record: "ImportRecord", out: str, dry_run: bool) -> str:
    """The result of an import: in a dry run every photograph, else only those that are left out."""
    lines = []
    if dry_run:
        taken = [row for row in record.rows if row.target]
        width = max((len(row.source) for row in taken), default=0)
        lines += [f"{row.source:{width}}  {row.target}  {row.mask_source or 'no mask'}" for row in taken]
    left_out = record.left_out
    lines += [f"left out: {row.source}: {row.note}" for row in left_out[: None if dry_run else SHOWN]]
    if len(left_out) > SHOWN and not dry_run:
        lines.append(f"left out: … and {len(left_out) - SHOWN} more; see --dry-run")
    if record.passed_over:
        lines.append(passed_over_text(record.passed_over))
    lines += [record.doubt] if record.doubt else []
    masks = sum(bool(row.mask) for row in record.rows)
    tests = sum(bool(row.target and not row.mask) for row in record.rows)
    kinds = [count(masks, "photograph") + " with masks", f"{tests:,} without to test/", f"{len(left_out):,} left out"]
    return os.linesep.join([*lines, f"{out}: {', '.join(kinds)}{' (nothing was written)' if dry_run else ''}"])


def passed_over_text(named: "Sequence[PassedOver]", counted: "Sequence[PassedOver] | None" = None) -> str:
    """The number of files passed over, and the names of the first.

    Args:
        named: the files to name.
        counted: the files to count, if some aren't named here.
    """
    from backdrop.data.listing import summarize

    lines = [summarize(named if counted is None else counted)]
    lines += [f"  {one.file} ({one.reason})" for one in named[:SHOWN]]
    return os.linesep.join([*lines, *([f"  … and {len(named) - SHOWN} more"] if len(named) > SHOWN else [])])


def estimate_text(record: "CostEstimate", price: float | None) -> str:
    """Each recipe's cost, and the time on one or more devices; `price` is for one device and hour."""
    names = max(len("recipe"), *(len(cost.recipe) for cost in record.recipes))
    lines = [f"{'recipe':{names}}  members  trained/s  judged/s  memory GiB  hours each  hours all"]
    for cost in record.recipes:
        rates = f"{cost.training:9.2f}  {cost.judging:8.2f}  {cost.memory / 2**30:10.1f}"
        hours = f"{_hours(cost.hours)}  {_hours(cost.hours * cost.members, 9)}"
        lines.append(f"{cost.recipe:{names}}  {cost.members:7}  {rates}  {hours}")
    paid = "" if price is None else f", {record.device_hours * price:,.2f} at {price:g} an hour"
    lines.append(f"{record.ensemble}: {_hours(record.device_hours, 0)} hours of one {record.device}{paid}")
    lines += [f"{devices:4} at a time: {_hours(hours)} hours" for devices, hours in record.hours.items()]
    return os.linesep.join(lines)


def models_text(models: "Sequence[ListedModel]") -> str:
    """A line per registered model."""
    from backdrop.tracking.client import place

    if not models:
        return f"No registered models in {place()}"
    names = max(len("model"), *(len(model.name) for model in models))
    lines = [f"{'model':{names}}  champion  versions  registered  Dice on the holdout"]
    for model in models:
        date = (model.registered or "")[:10]
        line = f"{model.name:{names}}  {model.champion or 'none':>8}  {model.versions:8}  {date:10}  {_dice(model)}"
        if model.held is not None:
            line += f"  held: {model.held}" if model.held else "  held"
        if model.fault:
            line += f"  history changed: {model.fault}"
        lines.append(line.rstrip())
    lines += [model.outdated for model in models if model.outdated]
    return os.linesep.join(lines)


def _dice(model: "ListedModel") -> str:
    if model.dice is None:
        return ""
    interval = "" if model.low is None else f"{model.low:.5f} to {model.high:.5f}, "
    return f"{model.dice:.5f} ({interval}{count(int(model.objects or 0), 'object')})"


def history_text(entries: "Sequence[Entry]") -> str:
    """A line for each entry of a model's history."""
    lines = []
    for number, entry in enumerate(entries, start=1):
        reason = f": {entry.reason}" if entry.reason else ""
        when = datetime.fromisoformat(entry.time).astimezone()
        what = f"version {entry.version} {entry.event} by {entry.actor}{reason}"
        lines.append(f"{number:4}  {when:%Y-%m-%d %H:%M}  {what}")
    return os.linesep.join(lines)


def verification_text(found: "Verification") -> str:
    """What of a version is as it was written."""
    when = datetime.fromisoformat(found.time).astimezone()
    return os.linesep.join(
        [
            found.address,
            f"files      {found.files}, as {found.actor} registered them on {when:%Y-%m-%d %H:%M}",
            f"history    {count(found.entries, 'entry', 'entries')}, none changed or missing",
            f"signature  {found.signature}",
        ]
    )


def search_text(search: "Search") -> str:
    """The trials, best first, and the comparison of the best with the best preset."""
    names = max(len("trial"), *(len(trial.name) for trial in search.trials))
    lines = [f"{'trial':{names}}  epochs     Dice  "]
    for trial in sorted(search.trials, key=lambda one: (-(one.dice or 0.0), one.name)):
        dice = "" if trial.dice is None else f"{trial.dice:.5f}"
        note = trial.error if trial.status == "failed" else "" if trial.status == "finished" else trial.status
        chosen = " <- chosen" if trial.name == search.chosen else ""
        lines.append(f"{trial.name:{names}}  {len(trial.dices):6}  {dice:>7}  {note}{chosen}".rstrip())
    return os.linesep.join([*lines, *([search.comparison.sentence] if search.comparison else [])])


def _hours(hours: float, width: int = 10) -> str:
    return f"{hours:{width}.{1 if hours >= 10 else 3}f}"
