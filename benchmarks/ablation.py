"""Measures what losses and each of the winners' tricks gain for small networks on real cars, out of fold.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/ablation.py

18 cars in three folds, 12 more without masks to be pseudo-labeled; `tiny` and `tiny-linknet` at 128x128 for 10 epochs,
three seeds each. A car's Dice is the mean over seeds; the spread of the seeds shows how much is chance.
"""

import os
import sys
from pathlib import Path

from backdrop.config import Ensemble
from backdrop.config.folds import Rule
from backdrop.config.records import dump_yaml, parse
from backdrop.evaluation.metrics import bootstrap, object_means
from backdrop.evaluation.records import IMAGES, Effect, read_scores
from backdrop.steps.evaluate import evaluate
from backdrop.steps.label import label
from backdrop.steps.split import split
from backdrop.steps.train import train

WORK = Path("work/benchmark-ablation")
LABELED, UNLABELED, FOLDS = 18, 12, 3
SMALL = ("input.size=128x128", "epochs=10", "ema=0.95")
SEEDS = 3
PLAIN = ("loss={kind: bce_dice}",)
BOX = ("loss={kind: boundary, profile: box, squared: true}",)
LOSSES = {
    "cross-entropy + Dice": PLAIN,
    "boundary weights in two levels, squared": BOX,
    "boundary weights by distance": ("loss={kind: boundary}",),
}
OPERATIONS = [
    {"kind": "threshold", "level": 0.45},
    {"kind": "fill_holes"},
    {"kind": "drop_small"},
    {"kind": "hull"},
    {"kind": "unreliable_top"},
]


def make_data(source: Path) -> str:
    """Makes a dataset of links: the first cars with their masks, the next ones in `test` without masks."""
    stems = sorted(path.stem for path in (source / "train").iterdir())
    cars = sorted({stem.rpartition("_")[0] for stem in stems})
    for stem in stems:
        place = cars.index(stem.rpartition("_")[0])
        if place < LABELED:
            link(source, "train", "train", f"{stem}.*")
            link(source, "train_masks", "train_masks", f"{stem}_mask.*")
        elif place < LABELED + UNLABELED:
            link(source, "train", "test", f"{stem}.*")
    return str(WORK / "data")


def link(source: Path, folder: str, target: str, pattern: str) -> None:
    """Links the files that match a pattern."""
    for path in (source / folder).glob(pattern):
        new = WORK / "data" / target / path.name
        new.parent.mkdir(parents=True, exist_ok=True)
        if not new.is_symlink():
            new.symlink_to(path)


def members(
    data: str, overrides: tuple[str, ...], pseudo: str | None = None, seed: int = 0, recipe: str = "tiny"
) -> list[str]:
    """Trains a member of each fold, or reuses it."""
    out, plan, settings = str(WORK / "members" / f"{recipe}-{{key}}"), str(WORK / "plan.csv"), (*SMALL, *overrides)
    return [train(data, plan, recipe, fold, out, (*settings, f"seed={seed}"), pseudo).address for fold in range(FOLDS)]


def dices(data: str, name: str, addresses: list[str]) -> dict[str, float]:
    """Out-of-fold Dice of each car."""
    report = WORK / "reports" / name.replace(" ", "-")
    evaluate(data, str(WORK / "plan.csv"), addresses, str(report))
    return object_means((score.object, score.dice) for score in read_scores(report / IMAGES))


def measure(
    data: str, name: str, overrides: tuple[str, ...], pseudo: str | None = None, recipe: str = "tiny"
) -> list[dict[str, float]]:
    """Out-of-fold Dice of each car by each seed."""
    return [
        dices(data, f"{recipe} {name} {seed}", members(data, overrides, pseudo, seed, recipe)) for seed in range(SEEDS)
    ]


def show(name: str, found: list[dict[str, float]], base: list[dict[str, float]]) -> None:
    """Prints a line of the table: mean Dice, each seed's, and the difference paired by car with its interval."""
    change = bootstrap({car: sum(a[car] - b[car] for a, b in zip(found, base, strict=True)) / SEEDS for car in base[0]})
    means = [sum(one.values()) / len(one) for one in found]
    each = ", ".join(f"{mean:.4f}" for mean in means)
    spread = f"{change.mean:+.4f} | {change.low:+.4f} to {change.high:+.4f}"
    print(f"| {name} | {sum(means) / SEEDS:.4f} | {each} | {spread} |", flush=True)


def repairs(data: str, addresses: list[str]) -> tuple[Effect, ...]:
    """The gain of each post-processing operation."""
    settings = dict(item.split("=", 1) for item in SMALL)
    part = {"recipe": "tiny", "set": {"input.size": settings["input.size"], "epochs": 10, "ema": 0.95}}
    values = {"name": "ablation", "folds": {"count": FOLDS}, "members": [part], "postprocessing": OPERATIONS}
    path = WORK / "ensemble.yaml"
    path.write_text(dump_yaml(parse(Ensemble, values, "ablation")))
    return evaluate(data, str(WORK / "plan.csv"), addresses, str(WORK / "reports" / "repair"), str(path)).repair


def main() -> None:
    """Trains all variants and prints two Markdown tables."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data = make_data(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve())
    plan = str(WORK / "plan.csv")
    split(data, plan, Rule(folds=FOLDS, holdout=0))
    head = "| Dice | each seed | difference | 95 % interval |\n| --- | --- | --- | --- | --- |"
    for recipe in ("tiny", "tiny-linknet"):
        print(f"| {recipe} at 128x128, 10 epochs {head}")
        base = measure(data, "plain", PLAIN, recipe=recipe)
        for name, overrides in LOSSES.items():
            show(name, measure(data, name, overrides, recipe=recipe), base)
    print(f"| tiny with the second of these losses {head}")
    base = measure(data, "box", BOX)
    show("as it is", base, base)
    show("hard-batch replay", measure(data, "replay", (*BOX, "replay_every=10")), base)
    plain = members(data, BOX)
    labels = label(data, plan, plain, str(WORK / "labels"), max_uncertainty=0.06)
    kept = "/".join(map(str, labels.kept.values()))
    name = f"pseudo-labels ({kept} of {labels.photographs} photographs kept)"
    show(name, measure(data, "pseudo", BOX, str(WORK / "labels")), base)
    print(
        "\n| after the mean | difference | 95 % interval | masks changed | verdict |\n| --- | --- | --- | --- | --- |"
    )
    for effect in repairs(data, plain):
        spread = f"{effect.low:+.5f} to {effect.high:+.5f}"
        changed = f"{effect.changed} of {effect.images}"
        print(f"| {effect.operation} | {effect.difference:+.5f} | {spread} | {changed} | {effect.verdict} |")


if __name__ == "__main__":
    main()
