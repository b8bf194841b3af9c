"""The winners' four networks for a few epochs on real cars, small: does the loss go down and the Dice up?

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/networks.py
"""

import os
import sys
from pathlib import Path

from backdrop.steps.split import split
from backdrop.steps.train import train
from backdrop.training.member import read_member

RECIPES = ("linknet34", "linknet34-concat", "unet11", "unet-scratch", "unet-vgg11")
# Their own sizes, rates and pretrained weights are for GPUs and many epochs; the networks and losses are as shipped.
SMALL = (
    *("pretrained=null", "input.size=128x128", "input.fit=stretch", "epochs=6", "batch_size=4", "ema=null"),
    *("optimiser={name: adamw, clip_norm: 1.0}", "augmentation=[{kind: hflip}]", "tta.hflip=false"),
    "schedule=[{kind: one-cycle, epochs: 6, rate: 1e-3, start: 2e-4, final: 1e-5}]",
)


def main() -> None:
    """Trains each on 8 cars, judges on 4 others, prints a Markdown table."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    data = str(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve())
    work = Path("work/benchmark-networks")
    plan = str(work / "plan.csv")
    split(data, plan, folds=3, holdout=0, objects=12)
    print("| recipe | loss, first epoch | last | Dice, first epoch | last |\n| --- | --- | --- | --- | --- |")
    for name in RECIPES:
        address = train(data, plan, name, 0, str(work / f"{name}-{{key}}"), SMALL).address
        first, *_, last = read_member(Path(address)).history()
        row = (f"`{name}`", *(f"{value:.4f}" for value in (first["loss"], last["loss"], first["dice"], last["dice"])))
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
