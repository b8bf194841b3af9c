"""Measures a schedule search on real cars: its cost, its gain, and whether six epochs rank schedules as thirty do.

    BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/tune.py

18 cars in three folds; `tiny` at 128x128: 12 trials of 6 epochs, the best and the best preset with 3 fresh seeds. Then
each schedule that wasn't stopped early trains four times as long, and the two rankings are compared. What was done
before is used: kill it, and start it again.
"""

import json
import os
import sys
from pathlib import Path

import yaml
from scipy import stats

from backdrop.config import Budget, find_recipe, read_over
from backdrop.config.folds import Rule
from backdrop.config.space import within
from backdrop.steps.split import split
from backdrop.steps.train import train
from backdrop.steps.tune import tune
from backdrop.tuning.results import Search, ranked

WORK = Path("work/benchmark-tune")
CARS, FOLDS, LONG = 18, 3, 24
BUDGET = Budget(trials=12, epochs=6)
PROXY = ("input.size=128x128", "ema=0.9", f"epochs={LONG}")


def longer(data: str, plan: str, search: Search) -> dict[str, float]:
    """Out-of-fold Dice of each finished trial's schedule after training four times as long."""
    found = {}
    for trial in ranked(search.trials):
        override = json.loads((WORK / "search" / "trials" / f"{trial.name}.json").read_text())["override"]
        path = WORK / "schedules" / f"{trial.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(within(override, LONG)))
        out = str(WORK / "longer" / trial.name)
        found[trial.name] = train(data, plan, find_recipe("tiny", PROXY, read_over(str(path))), 0, out).member.dice
    return found


def main() -> None:
    """Prints Markdown tables."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data, plan = str(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve()), str(WORK / "plan.csv")
    split(data, plan, Rule(folds=FOLDS, holdout=0), objects=CARS)
    search = tune(data, plan, "tiny", str(WORK / "search"), BUDGET).search
    trained = sum(trial.seconds for trial in search.trials)
    print(f"{len(search.trials)} trials, {trained / 60:.0f} minutes of training; chosen: {search.chosen}")
    if search.comparison:
        print(search.comparison.sentence)
    own = find_recipe("tiny").epochs
    print(
        f"\n| trial | {BUDGET.epochs} epochs | status | {LONG} epochs (written for {own}) |\n| --- | --- | --- | --- |"
    )
    long = longer(data, plan, search)
    for trial in sorted(search.trials, key=lambda one: -(one.dice or 0)):
        late = f"{long[trial.name]:.4f}" if trial.name in long else ""
        print(f"| `{trial.name}` | {trial.dice or 0:.4f} | {trial.status} after {len(trial.dices)} | {late} |")
    short = [search.trial(name).dice for name in long]
    rank = stats.spearmanr(short, list(long.values()))
    print(f"\nSpearman's rank correlation of {len(long)} schedules: {rank.statistic:.2f} (p = {rank.pvalue:.3f})")


if __name__ == "__main__":
    main()
