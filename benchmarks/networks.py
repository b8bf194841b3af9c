"""Trains the winners' four networks for a few epochs on small photographs of real cars, to see loss fall and Dice rise.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/networks.py
"""

import os
import sys
from pathlib import Path

from backdrop.config.folds import Rule
from backdrop.inference.member import read_member
from backdrop.steps.split import split
from backdrop.steps.train import train

# Maximum learning rates; VGG has no batch norm and needs a lower one.
RECIPES = {"linknet34": 1e-3, "linknet34-concat": 1e-3, "unet11": 2e-4, "unet-scratch": 1e-3, "unet-vgg11": 2e-4}
# Their own sizes and pretrained weights are for GPUs and many epochs; the networks and losses are as shipped.
SMALL = (
    *("pretrained=null", "input.size=128x128", "input.fit=stretch", "epochs=6", "batch_size=4", "ema=null"),
    *("optimizer={kind: adamw, clip_norm: 1.0}", "augmentation=[{kind: hflip}]", "tta.hflip=false"),
)


def main() -> None:
    """Trains each on 8 cars, judges it on 4 others, and prints a Markdown table."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data = str(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve())
    work = Path("work/benchmark-networks")
    plan = str(work / "plan.csv")
    split(data, plan, Rule(folds=3, holdout=0), objects=12)
    print("| recipe | loss, first epoch | last | Dice, first epoch | last |\n| --- | --- | --- | --- | --- |")
    for name, rate in RECIPES.items():
        start = min(2e-4, rate / 2)
        phase = f"schedule=[{{kind: one_cycle, epochs: 6, lr: {rate}, start: {start}, final: 1e-5}}]"
        address = train(data, plan, name, 0, str(work / f"{name}-{{key}}"), (*SMALL, phase)).address
        first, *_, last = read_member(Path(address)).history()
        row = (f"`{name}`", *(f"{value:.4f}" for value in (first["loss"], last["loss"], first["dice"], last["dice"])))
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
