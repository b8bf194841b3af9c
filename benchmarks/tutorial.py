"""Compares recipes with the U-Net of the tutorials on real cars that none trained on, three seeds each.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/tutorial.py [WAY …] [--seeds 3] [--passes P] [--jobs 1]

60 cars of 16 views at 512x512: 32 to train on, 16 of fold 0 for the recipes to select their epoch, 12 held out to judge
by. The tutorial's network sees each photograph P times. Each run is a process of its own with one thread, on the GPU if
there is one, and is reused if it has finished.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.common.devices import device
from backdrop.config import Recipe, find_recipe
from backdrop.config.folds import Rule
from backdrop.data.cache import open_cache
from backdrop.data.dataset import Dataset, Photo, open_dataset
from backdrop.data.digests import content_digests
from backdrop.data.folds import FoldPlan, read_plan
from backdrop.evaluation.metrics import bootstrap, object_means
from backdrop.inference.member import read_member
from backdrop.steps.split import split
from backdrop.steps.train import train
from backdrop.training.compute import device_name
from backdrop.training.judging import Labeled, dices

WORK = Path("work/benchmark-tutorial")
CARS, HOLDOUT = 60, 0.2
PASSES = 100  # of the tutorial's network
BEFORE = ("loss={kind: bce_dice}", "compute.precision=fp32", "epochs=32")
TUTORIAL = "tutorial"
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    TUTORIAL: ("tiny", ()),
    "tiny": ("tiny", ()),
    "tiny before": ("tiny", BEFORE),
    "quick": ("quick", ()),
}
# The winners' networks from random weights, alike but for their loss and the highest learning rate that VGG bears.
AT_512 = (
    *("pretrained=null", "input.size=512x512", "input.fit=stretch", "epochs=16", "batch_size=4", "ema=0.98"),
    *("optimizer={kind: adamw, weight_decay: 1e-4, clip_norm: 1.0}", "tta.hflip=true"),
    "augmentation=[{kind: hflip}, {kind: affine}, {kind: brightness, factor: [0.8, 1.2]}, {kind: hsv}, {kind: erase}]",
)
BOX = "loss={kind: boundary, profile: box, squared: true}"
for _name, _rate in {"linknet34": 1e-3, "unet11": 2e-4, "unet-scratch": 1e-3, "unet-vgg11": 2e-4}.items():
    _phase = f"schedule=[{{kind: one_cycle, epochs: 16, lr: {_rate}, start: {_rate / 5}, final: 1e-5}}]"
    WAYS[f"{_name} 512"] = (_name, (*AT_512, _phase))
    WAYS[f"{_name} 512 box"] = (_name, (*AT_512, _phase, BOX))


class TutorialUNet(nn.Module):
    """The U-Net of Ronneberger 2015 (arXiv:1505.04597) as tutorials write it, with padding: 1.1 M parameters."""

    def __init__(self, width: int = 12, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(convolutions(a, b) for a, b in zip([3, *widths], widths, strict=False))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(convolutions(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            images = block(functional.max_pool2d(images, 2) if level else images)
            kept.append(images)
        for grow, block, skip in zip(self.grow, self.up, kept[-2::-1], strict=True):
            images = block(torch.cat([skip, grow(images)], dim=1))
        answer: Tensor = self.head(images)
        return answer


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def train_tutorial(photos: Sequence[Photo], seed: int, passes: int) -> nn.Module:
    """Trains as tutorials do: Adam at 1e-3, cross-entropy, mirrored photographs, batches of 4 at 256x256."""
    torch.manual_seed(seed)
    images, masks = (torch.stack([load(photo, part) for photo in photos]) for part in ("image", "mask"))
    network, random = TutorialUNet().to(device()), np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(passes):
        for batch in torch.split(torch.from_numpy(random.permutation(len(photos))), 4):
            inputs, targets = images[batch].to(device()).float() / 255, masks[batch].to(device()).float() / 255
            if random.random() < 0.5:
                inputs, targets = inputs.flip(3), targets.flip(3)
            optimizer.zero_grad()
            torch.autograd.backward(functional.binary_cross_entropy_with_logits(network(inputs), targets))
            optimizer.step()
    return network.eval()


def load(photo: Photo, part: str) -> Tensor:
    """A photograph (3, 256, 256) or its mask (1, 256, 256), uint8."""
    path, flags = (photo.image, cv2.IMREAD_COLOR_RGB) if part == "image" else (photo.mask, cv2.IMREAD_GRAYSCALE)
    picture = cv2.imread(str(path), flags)
    assert picture is not None
    small = torch.from_numpy(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA))
    return small.permute(2, 0, 1) if part == "image" else small[None]


def run(way: str, seed: int, passes: int) -> None:
    """Trains one way with one seed, and writes each held-out car's Dice, the CPU-seconds and the device."""
    data, plan = WORK / "data", read_plan(WORK / "plan.csv")
    dataset, (name, overrides) = open_dataset(data), WAYS[way]
    torch.set_num_threads(1)
    start = time.process_time()
    if way == TUTORIAL:
        network = train_tutorial(dataset.select(row.image for row in plan.training(0)), seed, passes)
    else:
        out = str(WORK / "members" / f"{way.replace(' ', '-')}-{seed}")
        address = train(str(data), str(WORK / "plan.csv"), name, 0, out, (*overrides, f"seed={seed}")).address
        network = read_member(Path(address)).network().to(device())
    took = time.process_time() - start
    dice = judge(network, dataset, plan, find_recipe(name, overrides))
    result = {"cpu_s": took, "device": device_name(device()), "dice": dice}
    result_path(way, seed).parent.mkdir(exist_ok=True)
    result_path(way, seed).write_text(json.dumps(result))


def result_path(way: str, seed: int) -> Path:
    """Where `run` writes."""
    return WORK / "results" / f"{way.replace(' ', '-')}-{seed}.json"


def judge(network: nn.Module, dataset: Dataset, plan: FoldPlan, recipe: Recipe) -> dict[str, float]:
    """Dice of each held-out car at 512x512; the tutorial's network isn't mirrored."""
    rows = plan.holdout
    photos = dataset.select(row.image for row in rows)
    if isinstance(network, TutorialUNet):
        recipe = find_recipe("tiny", ["tta.hflip=false", "compute.precision=fp32"])
    labeled = Labeled(photos, open_cache(photos, content_digests(photos), recipe.input, recipe.loading.cache))
    scores = dices(network, labeled, recipe)
    return object_means((row.object, score) for row, score in zip(rows, scores, strict=True))


def make_data(source: Path) -> None:
    """A dataset of links to the first cars, and its plan."""
    for folder in ("train", "train_masks"):
        (WORK / "data" / folder).mkdir(parents=True, exist_ok=True)
        paths = sorted((source / folder).iterdir())
        cars = sorted({path.stem.partition("_")[0] for path in paths})[:CARS]
        for path in (path for path in paths if path.stem.partition("_")[0] in cars):
            link = WORK / "data" / folder / path.name
            if not link.is_symlink():
                link.symlink_to(path)
    split(str(WORK / "data"), str(WORK / "plan.csv"), Rule(folds=3, holdout=HOLDOUT))


def results(way: str, seeds: int) -> list[dict[str, Any]]:
    """What `run` has written of a way."""
    return [json.loads(result_path(way, seed).read_text()) for seed in range(seeds)]


def by_car(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each car's Dice, the mean over seeds."""
    return {car: sum(one["dice"][car] for one in found) / len(found) for car in found[0]["dice"]}


def show(ways: Sequence[str], seeds: int) -> None:
    """Prints a Markdown table; differences to the first way are paired by car, and their intervals are over cars."""
    base = by_car(results(ways[0], seeds))
    print(f"| way | device | CPU-s | Dice | each seed | against {ways[0]} | 95 % interval |\n|" + " --- |" * 7)
    for way in ways:
        found = results(way, seeds)
        cars, took = by_car(found), sum(one["cpu_s"] for one in found) / seeds
        change = bootstrap({car: cars[car] - base[car] for car in cars})
        each = ", ".join(f"{sum(one['dice'].values()) / len(cars):.4f}" for one in found)
        mean = sum(cars.values()) / len(cars)
        spread = "| " if way == ways[0] else f"{change.mean:+.4f} | {change.low:+.4f} to {change.high:+.4f}"
        print(f"| {way} | {found[0]['device']} | {took:.0f} | {mean:.4f} | {each} | {spread} |")


def main() -> None:
    """Runs all ways, seed by seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", nargs="*", default=[TUTORIAL, "tiny before", "tiny", "quick"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        way, seed = asked.run
        return run(way, seed, asked.passes)
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds squashed-512")
    make_data(Path(os.environ["BACKDROP_CARVANA"], "squashed-512").resolve())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BACKDROP_TRACKING": "off"}

    def start(way: str, seed: int) -> None:
        command = [sys.executable, __file__, "--passes", str(asked.passes), "--run", json.dumps([way, seed])]
        subprocess.run(command, check=True, env=environment)

    runs = [(way, seed) for seed in range(asked.seeds) for way in asked.ways if not result_path(way, seed).exists()]
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(lambda one: start(*one), runs))
    show(asked.ways, asked.seeds)
    return None


if __name__ == "__main__":
    main()
