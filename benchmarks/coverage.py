"""Measures on real cars that no member trained on how often the interval of the predicted Dice holds.

BACKDROP_CARVANA=FOLDER OMP_NUM_THREADS=1 .venv/bin/python benchmarks/coverage.py [--seeds 3] [--set KEY=VALUE]…

All cars of squashed-512: in each seed another half of them is held out, and two members of `quick` are trained on the
others. The line is fitted out of fold, the interval's width learned from half of the held-out cars, and measured on the
other half; then the halves change places. Beside it stand what is learned out of fold alone, and the naive interval:
from the 5th to the 95th percentile of that line's errors on all photographs out of fold, as if each photograph was an
independent one, and the line hadn't been fitted to half of them. Members and judged photographs are reused.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from backdrop.config import PredictedDice
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.evaluation.predicted_dice import HOLDS, Known, learn, measure
from backdrop.evaluation.scoring import judges, score
from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import gather
from backdrop.inference.uncertainty import error_of, predict_dice
from backdrop.steps.members import open_member
from backdrop.steps.split import split
from backdrop.steps.train import train

WORK = Path("work/benchmark-coverage")
FOLDS, HOLDOUT = 2, 0.5
RESAMPLES = 1000
NEEDED = (0.97, 0.975, 0.98, 0.985)  # Dice
HEAD = ("seed", "interval", "cars for which it holds", "95 % interval", "its lower end", "photographs", "mean width")

Cars = dict[str, list[Known]]


def judged(data: str, seed: int, overrides: Sequence[str]) -> tuple[list[Known], list[Known]]:
    """The photographs out of fold and on the holdout, as two members see them that are trained or reused."""
    plan, known = WORK / f"plan-{seed}.csv", WORK / f"photographs-{seed}.json"
    if not known.exists():
        split(data, str(plan), Rule(FOLDS, HOLDOUT, seed=seed))
        out, settings = str(WORK / "members" / "{key}"), (*overrides, f"seed={seed}")
        members = [open_member(train(data, str(plan), "quick", fold, out, settings).address) for fold in range(FOLDS)]
        dataset = open_dataset(data)
        digests = verify(read_plan(plan), dataset)
        model = keep_networks(gather(members, None))
        found = score(dataset, judges([read_plan(plan)], digests, model), digests).judged
        parts = ([one for one in found if (one.score.fold is None) is held] for held in (False, True))
        known.write_text(json.dumps([[astuple(one.known(None)) for one in part] for part in parts]))
    folded, held = ([Known(*values) for values in part] for part in json.loads(known.read_text()))
    return folded, held


def naive(line: PredictedDice, photos: Iterable[Known]) -> PredictedDice:
    """The rule whose interval has nine in ten of these photographs' errors, wherever that is around the line."""
    errors = [
        math.log(error_of(one.dice)) - line.intercept - line.slope * math.log(error_of(one.expected)) for one in photos
    ]
    low, high = np.quantile(errors, ((1 - HOLDS) / 2, (1 + HOLDS) / 2)).tolist()
    return line.model_copy(update={"intercept": line.intercept + (low + high) / 2, "spread": (high - low) / 2})


def measured(rule: PredictedDice, photos: Sequence[Known]) -> list[float]:
    """How a rule does.

    Returns:
        The numbers of cars: for which it is right, all, for which at least its lower end is; the share of photographs
        for which it is right; its mean width.
    """
    cars = measure(rule, photos)
    assert cars.right is not None
    worse = {one.object for one in photos if one.dice < predict_dice(rule, one.expected).low}
    singly = measure(rule, [replace(one, object=str(number)) for number, one in enumerate(photos)])
    assert singly.right is not None
    return [cars.right, cars.objects, cars.objects - len(worse), singly.right / singly.objects, cars.width]


def crossed(folded: Sequence[Known], held: Cars) -> list[tuple[PredictedDice, list[Known]]]:
    """Each half of the held-out cars, and the rule whose width is learned from the other half."""
    names = np.random.default_rng(0).permutation(sorted(held)).tolist()
    halves = [[one for name in some for one in held[name]] for some in (names[::2], names[1::2])]
    rules = [learn(folded, other) for other in halves[::-1]]
    return [(rule, part) for rule, part in zip(rules, halves, strict=True) if rule]


def accepted(pairs: Iterable[tuple[PredictedDice, list[Known]]], needed: float) -> tuple[int, int, int, int]:
    """The numbers of photographs whose lower end is what is needed, of all, of cars with a worse one, and of all."""
    photos = [(rule, one) for rule, part in pairs for one in part]
    taken = [one for rule, one in photos if predict_dice(rule, one.expected).low >= needed]
    worse = {one.object for one in taken if one.dice < needed}
    return len(taken), len(photos), len(worse), len({one.object for _, one in photos})


def together(found: Sequence[Sequence[float]]) -> list[float]:
    """The sums of what `measured` counts, and the means of its shares."""
    right, cars, above, share, width = zip(*found, strict=True)
    return [sum(right), sum(cars), sum(above), float(np.mean(share)), float(np.mean(width))]


def row(title: str, name: str, figures: Sequence[float]) -> None:
    """Prints a line of the table."""
    right, cars, above, share, width = figures
    exact = binomtest(int(right), int(cars)).proportion_ci(method="exact")
    among, interval = f"{right:.0f} of {cars:.0f}, {right / cars:.1%}", f"{exact.low:.1%} to {exact.high:.1%}"
    cells = [title, name, among, interval, f"{above / cars:.1%}", f"{share:.1%}", f"{width:.4f}"]
    print(f"| {' | '.join(cells)} |".replace("%", " %"))


def auroc(rules: Sequence[PredictedDice], held: Sequence[Cars], names: Sequence[str]) -> float:
    """Of the photographs of some cars, each as often as it is named: the mean over seeds."""
    pairs = zip(rules, held, strict=True)
    areas = [measure(rule, [one for name in names for one in cars.get(name, ())]).auroc for rule, cars in pairs]
    return float(np.mean([area for area in areas if area is not None]))


def spread(rules: Sequence[PredictedDice], held: Sequence[Cars]) -> str:
    """The AUROC and its 95 % interval, by resampling cars."""
    names, random = sorted({name for cars in held for name in cars}), np.random.default_rng(0)
    found = [auroc(rules, held, random.choice(names, len(names)).tolist()) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, (0.025, 0.975))
    return f"{auroc(rules, held, names):.3f} ({low:.3f} to {high:.3f})"


def by_car(photos: Sequence[Known]) -> Cars:
    """The photographs of each car."""
    cars: Cars = {}
    for photo in photos:
        cars.setdefault(photo.object, []).append(photo)
    return cars


def main() -> None:
    """Prints a Markdown table, and the AUROC for the worst photographs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="of the recipe")
    asked = parser.parse_args()
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data = str(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve())
    rules: list[PredictedDice] = []
    held: list[Cars] = []
    halves: list[list[tuple[PredictedDice, list[Known]]]] = []
    figures: dict[str, list[list[float]]] = {"by object": [], "out of fold alone": [], "naive": []}
    for seed in range(asked.seeds):
        folded, others = judged(data, seed, asked.set)
        rule = learn(folded, [])
        assert rule
        rules.append(rule)
        held.append(by_car(others))
        halves.append(crossed(folded, by_car(others)))
        figures["by object"].append(together([measured(*pair) for pair in halves[-1]]))
        figures["out of fold alone"].append(measured(rule, others))
        figures["naive"].append(measured(naive(rule, folded), others))
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for name, found in figures.items():
        for seed, one in enumerate(found):
            row(str(seed), name, one)
        row("all", name, together(found))
    print("\n| Dice needed | accepted photographs | cars with an accepted one that is worse |\n| --- | --- | --- |")
    for needed in NEEDED:
        taken, photos, worse, cars = np.sum([accepted(pairs, needed) for pairs in halves], axis=0).tolist()
        print(f"| {needed} | {100 * taken / photos:.1f} % | {worse} of {cars}, {100 * worse / cars:.1f} % |")
    areas = [spread([rule], [cars]) for rule, cars in zip(rules, held, strict=True)]
    print(f"\nAUROC for the worst 5 % of photographs: {', '.join(areas)}; all {spread(rules, held)}")


if __name__ == "__main__":
    main()
