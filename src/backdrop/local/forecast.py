"""Estimates the time left of a local run from its own measurements; unknown while they are missing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backdrop.config.planned import Planned
from backdrop.local.console import Task

EVALUATE = "evaluate"

Tasks = Mapping[str, Task]


@dataclass(frozen=True)
class Forecast:
    """Seconds to the end of a run.

    The estimate for a member is the median time of the trained members of its recipe, or else that of the one in
    training. For `evaluate` it is the time that its members took to judge, for other tasks the median of such tasks.

    Args:
        members: those that the run trains.
        total: number of tasks.
        twice: whether `evaluate` predicts the photographs again to measure the post-processing.
    """

    members: Sequence[Planned]
    total: int
    twice: bool = False

    def __call__(self, tasks: Tasks, now: float) -> float | None:
        """Seconds left; None while a part of the run hasn't been measured.

        Args:
            tasks: those that have started, by name.
            now: the time by the clock of `Task.began`.
        """
        names = [member.task for member in self.members]
        due = [self._member(member, tasks, now) for member in self.members if member.task not in tasks]
        if EVALUATE not in tasks:
            due.append(self._evaluation(tasks))
        others = self.total - len(tasks) - len(due)
        if others:
            taken = [task.seconds for name, task in tasks.items() if task.well and name not in (*names, EVALUATE)]
            due.append(others * statistics.median(taken) if taken else None)
        due += [self._running(task, tasks, now) for task in tasks.values() if task.well is None]
        known = [seconds for seconds in due if seconds is not None]
        return sum(known) if len(known) == len(due) else None

    def _running(self, task: Task, tasks: Tasks, now: float) -> float | None:
        """The task's own estimate, or else the time of similar tasks less its time so far."""
        own = task.left_s(now)
        member = next((member for member in self.members if member.task == task.name), None)
        if own is not None or member is None:
            return own
        total = self._member(member, tasks, now)
        return None if total is None else max(0.0, total - (now - task.began))

    def _member(self, member: Planned, tasks: Tasks, now: float) -> float | None:
        """Seconds that a member takes; reused members don't count, because they didn't train."""
        alike = [task for task in self._alike(member, tasks) if task.trains]
        taken = [task.seconds for task in alike if task.well]
        if not taken:
            taken = [now - task.began + left for task in alike if (left := task.left_s(now)) is not None]
        return statistics.median(taken) if taken else None

    def _evaluation(self, tasks: Tasks) -> float | None:
        """Seconds of the evaluation: each member judges its fold again, and the holdout."""
        total = 0.0
        for member in self.members:
            judged = [task.judged_s for task in self._alike(member, tasks) if task.judged_s is not None]
            if not judged:
                return None
            rule = member.rule
            held_out = rule.holdout * rule.folds / (1 - rule.holdout)  # the holdout's size, in folds
            total += statistics.median(judged) * (1 + held_out) * (2 if self.twice else 1)
        return total

    def _alike(self, member: Planned, tasks: Tasks) -> list[Task]:
        """The started tasks of members of the same recipe."""
        names = {other.task for other in self.members if other.recipe.name == member.recipe.name}
        return [task for name, task in tasks.items() if name in names]
