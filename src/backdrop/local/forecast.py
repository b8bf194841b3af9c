"""How long a local run still takes, by what it has measured itself; unknown where it hasn't."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backdrop.local.console import Task
from backdrop.pipelines.training import Planned

EVALUATE = "evaluate"

Tasks = Mapping[str, Task]


@dataclass(frozen=True)
class Forecast:
    """Seconds to the end of a run.

    A member takes what trained members of its recipe took, by the median, else what the one that trains now will take.
    `evaluate` takes what judging by its members took, and any other task what such tasks took.

    Args:
        members: those that the run trains.
        total: how many tasks there are.
        twice: whether `evaluate` looks at the photographs again, to measure the post-processing.
    """

    members: Sequence[Planned]
    total: int
    twice: bool = False

    def __call__(self, tasks: Tasks, now: float) -> float | None:
        """Seconds left; None as long as a part hasn't been measured.

        Args:
            tasks: those that have begun, by name.
            now: the time, by the clock of `Task.began`.
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
        """What the task says itself, else what such tasks take."""
        own = task.left_s(now)
        member = next((member for member in self.members if member.task == task.name), None)
        if own is not None or member is None:
            return own
        whole = self._member(member, tasks, now)
        return None if whole is None else max(0.0, whole - (now - task.began))

    def _member(self, member: Planned, tasks: Tasks, now: float) -> float | None:
        """Members that were there already say nothing of how long training takes."""
        alike = [task for task in self._alike(member, tasks) if task.trains]
        taken = [task.seconds for task in alike if task.well]
        if not taken:
            taken = [now - task.began + left for task in alike if (left := task.left_s(now)) is not None]
        return statistics.median(taken) if taken else None

    def _evaluation(self, tasks: Tasks) -> float | None:
        """Each member judges its fold once more, and the holdout."""
        whole = 0.0
        for member in self.members:
            judged = [task.judged_s for task in self._alike(member, tasks) if task.judged_s is not None]
            if not judged:
                return None
            rule = member.rule
            held_out = rule.holdout * rule.folds / (1 - rule.holdout)  # the holdout's size, in folds
            whole += statistics.median(judged) * (1 + held_out) * (2 if self.twice else 1)
        return whole

    def _alike(self, member: Planned, tasks: Tasks) -> list[Task]:
        names = {other.task for other in self.members if other.recipe.name == member.recipe.name}
        return [task for name, task in tasks.items() if name in names]
