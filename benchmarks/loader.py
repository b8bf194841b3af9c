"""Measures ways to make a training sample from a photograph, in images per second and core.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/loader.py
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2

from backdrop.augmentation.host import Augmenter
from backdrop.config import Recipe, find_recipe
from backdrop.data.dataset import Digests, Photo, open_dataset, read_pair
from backdrop.data.digests import content_digests
from backdrop.data.preprocessing import to_input
from backdrop.training.samples import Samples

RECIPES = ("tiny", "unet-scratch", "unet11", "linknet34")
PHOTOGRAPHS = 16
ROUNDS = 5
SETTINGS = (
    ["loading.cache=disk", "compute.augment=host"],
    ["loading.cache=none", "compute.augment=host"],
    ["loading.cache=disk", "compute.augment=device"],
)


def full_size(recipe: Recipe, photos: list[Photo], digests: Digests) -> Callable[[int, int], object]:
    """The slow way: decode, augment the photograph at its own size, then resize."""
    augment = Augmenter(recipe.augmentation, recipe.seed)

    def sample(epoch: int, index: int) -> object:
        image, mask = read_pair(photos[index], digests)
        changed = augment(image, mask.astype("uint8") * 255, epoch, index)
        return [to_input(part, recipe.input) for part in changed]

    return sample


def own_size(recipe: Recipe, photos: list[Photo], digests: Digests) -> Callable[[int, int], object]:
    """The way of training: at the network's input size, from the cache if the recipe has one.

    What is left to a GPU isn't in it.
    """
    samples = Samples(photos, digests, recipe)
    return lambda epoch, index: samples[epoch, index]


def main() -> None:
    """Prints a Markdown table; each round measures all ways in turn, on one thread."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds full")
    cv2.setNumThreads(1)
    dataset = open_dataset(Path(os.environ["BACKDROP_CARVANA"], "full"))
    photos = [photo for photo in dataset.photos.values() if photo.mask][:PHOTOGRAPHS]
    digests = content_digests(photos)
    print("| recipe, input | full-size augmentation | decoded each time | default for a CPU | for a GPU | ratios |")
    print("|" + " --- |" * 6)
    for name in RECIPES:
        recipe, plain, gpu = (find_recipe(name, settings) for settings in SETTINGS)
        ways = [full_size(recipe, photos, digests), *(own_size(one, photos, digests) for one in (plain, recipe, gpu))]
        rates: list[list[float]] = [[] for _ in ways]
        for epoch in range(ROUNDS):
            for way, found in zip(ways, rates, strict=True):
                start = time.perf_counter()
                for index in range(PHOTOGRAPHS):
                    way(epoch, index)
                found.append(PHOTOGRAPHS / (time.perf_counter() - start))
        ratios = [median(one / full for full, one in zip(rates[0], found, strict=True)) for found in rates[2:]]
        cells = [f"`{name}`, {recipe.input.size}", *(f"{median(found):.0f}" for found in rates)]
        print(f"| {' | '.join(cells)} | {', '.join(f'{ratio:.1f}' for ratio in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
