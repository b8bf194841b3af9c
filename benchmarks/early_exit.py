"""Measures what an early exit saves and loses on real cars, and how long predictions take with and without it.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/early_exit.py

60 cars: 48 in three folds, 12 held out; the shipped ensemble `demo`, three members each of `tiny` and `tiny-linknet` at
192x128. The photographs are judged once, and a rule is learned for each loss that may be allowed.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from backdrop.config import ExitRule, find_ensemble
from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.data.photographs import Source
from backdrop.evaluation.early_exit import first_costs, fit
from backdrop.evaluation.metrics import estimate
from backdrop.evaluation.records import Saving
from backdrop.evaluation.scoring import judges, score
from backdrop.inference.batch import cut_out, keep_networks
from backdrop.inference.ensemble import EnsembleModel, gather
from backdrop.steps.members import open_member
from backdrop.steps.split import split
from backdrop.steps.train import train

WORK = Path("work/benchmark-early-exit")
CARS, FOLDS, HOLDOUT = 60, 3, 0.2
LOSSES = (0.0001, 0.0003, 0.001, 0.003)
HEAD = ("max_loss", "first", "unconfidence above", "", "stopped", "saved", "95 % interval", "lost", "95 % interval")


def row(rule: ExitRule | None, max_loss: float, title: str, saving: Saving) -> str:
    """A line of the table."""
    saved, lost = saving.saved, saving.lost
    assert saved.low is not None  # there are several cars
    assert saved.high is not None
    cells = (
        f"{max_loss:g}",
        ", ".join(rule.first) if rule else "none",
        f"{rule.unconfidence_above:.4g}" if rule else "",
        title,
        f"{saving.stopped} of {saving.images}",
        f"{100 * saved.mean:.1f} %",
        f"{100 * saved.low:.1f} to {100 * saved.high:.1f} %",
        f"{lost.mean:+.5f}",
        f"{lost.low:+.5f} to {lost.high:+.5f}",
    )
    return f"| {' | '.join(cells)} |"


def predict(model: EnsembleModel, photos: list[Source]) -> float:
    """The seconds that it takes to cut out the photographs."""
    start = time.perf_counter()
    cut_out(model, photos)
    return time.perf_counter() - start


def main() -> None:
    """Trains the members, or reuses them, and prints a Markdown table and the times."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data, path = str(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve()), str(WORK / "plan.csv")
    split(data, path, Rule(FOLDS, HOLDOUT), CARS)
    config, plan, dataset = find_ensemble("demo"), read_plan(path), open_dataset(data)
    parts = [(part.resolve(), fold) for part in config.parts() for fold in range(FOLDS)]
    out = str(WORK / "members" / "{name}-{{key}}")
    members = [train(data, path, recipe, fold, out.format(name=recipe.name)).address for recipe, fold in parts]
    model, digests = keep_networks(gather([open_member(address) for address in members], config)), verify(plan, dataset)
    costs = first_costs(model)
    judged = score(dataset, judges([plan], digests, model), digests, costs).judged
    held = [one.score for one in judged if one.score.fold is None]
    print(f"holdout Dice of all members {estimate(held).dice:.5f}; the first members' share of the cost {costs}\n")
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    photos = [Source(dataset.photos[score.image].image, score.image) for score in held]
    times = {"all members": predict(model, photos)}
    for max_loss in LOSSES:
        learned, _ = fit(judged, costs, max_loss)
        for title, saving in {"out of fold": learned.oof, "holdout": learned.holdout}.items():
            if saving:
                print(row(learned.rule, max_loss, title, saving), flush=True)
        times[f"{max_loss:g}"] = predict(replace(model, early_exit=learned.rule), photos)
    print(f"\nseconds for the {len(photos)} photographs of the holdout:")
    print(", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items()))


if __name__ == "__main__":
    main()
