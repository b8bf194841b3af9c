"""How long a run still takes: only what it has measured counts."""

import pytest

from backdrop.config import find_ensemble
from backdrop.config.planned import planned
from backdrop.local.console import Task
from backdrop.local.forecast import Forecast

MEMBERS = planned(find_ensemble("tiny"), [0, 1, 2])
TOTAL = len(MEMBERS) + 5  # check, plan, evaluate, register, promote
HOLDOUT = MEMBERS[0].rule.holdout * MEMBERS[0].rule.folds / (1 - MEMBERS[0].rule.holdout)
NOW = 1000.0


def ended(name: str, seconds: float) -> Task:
    return Task(name, 0.0, seconds, well=True)


def trained(fold: int, seconds: float, judged_s: float | None = None) -> Task:
    return Task(f"train-tiny-{fold}", 0.0, seconds, well=True, trains=True, judged_s=judged_s)


def forecast(*tasks: Task, total: int = TOTAL, twice: bool = False) -> float | None:
    return Forecast(MEMBERS, total, twice)({task.name: task for task in tasks}, NOW)


BEGUN = (ended("check", 4.0), ended("plan", 6.0))


def test_nothing_is_known_before_a_member_has_trained() -> None:
    assert forecast() is None
    assert forecast(*BEGUN) is None
    assert forecast(*BEGUN, Task("train-tiny-0", NOW - 30)) is None


def test_a_run_in_the_middle() -> None:
    """One member is done, one trains and has said how long it takes, one, the evaluation and two more are left."""
    running = Task("train-tiny-1", NOW - 60, trains=True, eta=(50.0, NOW - 10))
    left = 40 + 100 + 3 * 2 * (1 + HOLDOUT) + 2 * 5
    assert forecast(*BEGUN, trained(0, 100.0, 2.0), running) == pytest.approx(left)
    twice = forecast(*BEGUN, trained(0, 100.0, 2.0), running, twice=True)
    assert twice == pytest.approx(left + 3 * 2 * (1 + HOLDOUT))


def test_the_first_member_speaks_for_the_others_but_not_for_the_evaluation() -> None:
    running = Task("train-tiny-0", NOW - 60, trains=True, eta=(40.0, NOW))
    assert forecast(*BEGUN, running) is None
    running.judged_s = 2.0
    assert forecast(*BEGUN, running) == pytest.approx(40 + 2 * 100 + 3 * 2 * (1 + HOLDOUT) + 2 * 5)


def test_a_member_that_has_not_said_is_taken_for_an_ordinary_one() -> None:
    running = Task("train-tiny-1", NOW - 30)
    late = Task("train-tiny-1", NOW - 300)
    tail = 3 * 2 * (1 + HOLDOUT) + 2 * 5
    assert forecast(*BEGUN, trained(0, 100.0, 2.0), running) == pytest.approx(70 + 100 + tail)
    assert forecast(*BEGUN, trained(0, 100.0, 2.0), late) == pytest.approx(0 + 100 + tail)


def test_a_reused_member_says_nothing_of_training() -> None:
    reused = Task("train-tiny-0", 0.0, 5.0, well=True)
    assert forecast(*BEGUN, reused, Task("train-tiny-1", NOW - 2)) is None


def test_the_end_of_a_run() -> None:
    done = [trained(fold, 100.0, 2.0) for fold in range(3)]
    evaluating = Task("evaluate", NOW - 5, eta=(30.0, NOW))
    assert forecast(*BEGUN, *done, evaluating) == pytest.approx(30 + 2 * 5)
    registering = Task("register", NOW - 5)
    assert forecast(*BEGUN, *done, ended("evaluate", 50.0), registering) is None, "it hasn't said how long it takes"
