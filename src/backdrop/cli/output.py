"""What the commands print of the records that their steps return."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.steps.check import CheckReport
    from backdrop.steps.estimate import CostEstimate
    from backdrop.tuning.results import Search


def check_text(report: "CheckReport") -> str:
    """What a dataset holds, and its faults, a line each."""
    sizes = ", ".join(report.sizes)
    lines = [
        f"{report.data}: {report.objects} objects, {report.images} photographs, {len(report.views)} views, {sizes}"
    ]
    lines += [f"{fault.level}: {fault.file} {fault.what}. {fault.remedy}." for fault in report.faults]
    warnings = len(report.faults) - len(report.errors)
    return os.linesep.join([*lines, f"{len(report.errors)} errors, {warnings} warnings"])


def estimate_text(record: "CostEstimate", price: float | None) -> str:
    """What each recipe costs, and how long so many devices take; `price` is of one of them for an hour."""
    names = max(len("recipe"), *(len(cost.recipe) for cost in record.recipes))
    lines = [f"{'recipe':{names}}  members  trained/s  judged/s  memory GiB  hours each  hours all"]
    for cost in record.recipes:
        rates = f"{cost.training:9.2f}  {cost.judging:8.2f}  {cost.memory / 2**30:10.1f}"
        hours = f"{_hours(cost.hours)}  {_hours(cost.hours * cost.members, 9)}"
        lines.append(f"{cost.recipe:{names}}  {cost.members:7}  {rates}  {hours}")
    paid = "" if price is None else f", {record.device_hours * price:,.2f} at {price:g} an hour"
    lines.append(f"{record.ensemble}: {_hours(record.device_hours, 0)} hours of one {record.device}{paid}")
    lines += [f"{count:4} at a time: {_hours(hours)} hours" for count, hours in record.hours.items()]
    return os.linesep.join(lines)


def search_text(search: "Search") -> str:
    """The trials, the best first, and the sentence that compares the best with the best preset."""
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
