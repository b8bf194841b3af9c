"""Reads a local run's results from the files of its tasks, and shows them as a table and a few lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from backdrop.common.progress import duration
from backdrop.common.words import count
from backdrop.config.planned import Planned
from backdrop.local.console import Task

OUTPUT = "executor_output.json"


@dataclass(frozen=True)
class Outputs:
    """The finished tasks' outputs, by task."""

    tasks: Mapping[str, Mapping[str, Any]]

    def metadata(self, task: str, artifact: str) -> dict[str, Any]:
        """An output artifact's metadata; empty if there is none."""
        return dict(self._artifact(task, artifact).get("metadata", {}))

    def path(self, task: str, artifact: str) -> Path | None:
        """An output artifact's file, if the task wrote it."""
        uri = self._artifact(task, artifact).get("uri")
        return Path(uri) if uri and Path(uri).is_file() else None

    @property
    def is_unchanged(self) -> bool:
        """Whether the run ended after `plan`, because nothing was missing."""
        return self.metadata("plan", "summary").get("missing") == []

    def _artifact(self, task: str, artifact: str) -> Mapping[str, Any]:
        entry = self.tasks.get(task, {}).get("artifacts", {}).get(artifact, {})
        artifacts: Sequence[Mapping[str, Any]] = entry.get("artifacts", [])
        return artifacts[0] if artifacts else {}


def read_outputs(root: Path) -> Outputs:
    """Reads the outputs in a run's folder, where each task has a folder of its name."""
    return Outputs(
        {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(root.rglob(OUTPUT))}
    )


def members_table(members: Sequence[Planned], tasks: Mapping[str, Task], outputs: Outputs) -> Table:
    """A table with a row for each member: fold, recipe, epochs, out-of-fold Dice, time."""
    table = Table("fold", "recipe", "epochs", "Dice", "time", title="Members", title_justify="left")
    for member in sorted(members, key=lambda member: (member.fold, member.recipe.name)):
        table.add_row(str(member.fold), member.recipe.name, *_member(member, tasks, outputs))
    return table


def summary(outputs: Outputs) -> list[str]:
    """Lines with the ensemble's Dice, its version in the registry, and the verdict with its reasons, if any."""
    if outputs.is_unchanged:
        return _unchanged(outputs.metadata("plan", "summary"))
    metrics = outputs.metadata("evaluate", "metrics")
    return [*_dice(metrics), *_model(outputs.metadata("register", "model")), *_verdict(outputs)]


def prediction_summary(outputs: Outputs, out: str) -> list[str]:
    """A line with the number of photographs that have results, new ones and failed ones; none if a task failed."""
    found = outputs.metadata("merge", "metrics")
    if found:
        images, new, failed = (int(found[name]) for name in ("images", "new", "failed"))
        return [f"Results    {out}: {count(images, 'photograph')}, {new} new, {failed} failed"]
    return [f"Results    {out}: nothing is new"] if set(outputs.tasks) == {"shard"} else []


def _unchanged(plan: Mapping[str, Any]) -> list[str]:
    registration, champion = plan["registration"], plan["champion"]
    if champion == registration["version"]:
        what = "it is the champion already"
    else:
        what = f"models:/{registration['name']}/{champion:.0f} is the champion" if champion else "there is no champion"
    return [
        *_model(registration),
        f"Verdict    unchanged: {what}",
        f"           Nothing was missing: {count(len(plan['members']), 'member')}, evaluation, version and verdict",
    ]


def _member(member: Planned, tasks: Mapping[str, Task], outputs: Outputs) -> tuple[str, str, str]:
    task = tasks.get(member.task)
    metrics = outputs.metadata(member.task, "metrics")
    if task is None and outputs.is_unchanged:
        found = outputs.metadata("plan", "summary")["members"][member.name]
        return f"{found['epochs']:.0f}", f"{found['dice']:.5f}", "reused"
    if task is None or not task.well or not metrics:
        return "", "", "not run" if task is None else "FAILED"
    time = "reused" if metrics["reused"] else duration(metrics["seconds"])
    return f"{metrics['epochs']:.0f}", f"{metrics['dice']:.5f}", time


def _dice(metrics: Mapping[str, Any]) -> list[str]:
    if "holdout" not in metrics:
        return []
    objects = count(round(metrics["objects"]), "holdout object")
    line = f"Ensemble   Dice {metrics['holdout']:.5f} on {objects}"
    if "holdout_low" in metrics:
        line += f" (95 % interval {metrics['holdout_low']:.5f} to {metrics['holdout_high']:.5f})"
    return [line]


def _model(registration: Mapping[str, Any]) -> list[str]:
    if not registration:
        return []
    state = "new" if registration["created"] else "unchanged"
    return [f"Model      models:/{registration['name']}/{registration['version']:.0f} ({state})"]


def _verdict(outputs: Outputs) -> list[str]:
    verdict = outputs.metadata("promote", "summary")
    if not verdict:
        return []
    promoted = verdict["outcome"] == "promoted"
    name = outputs.metadata("register", "model")["name"]
    summary = f"it is models:/{name}@champion now" if promoted else verdict["summary"]
    return [f"Verdict    {verdict['outcome']}: {summary}", *(f"           {reason}" for reason in verdict["reasons"])]
