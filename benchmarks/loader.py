"""Images a second per core of each way from a photograph to a training sample.

BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/loader.py
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2

from backdrop.augmentation import Augmenter
from backdrop.dataset import Digests, Photo, file_digests, open_dataset, read_pair
from backdrop.prediction import to_input
from backdrop.recipe import Recipe, find_recipe
from backdrop.training.samples import Samples

RECIPES = ("tiny", "unet-scratch", "unet11", "linknet34")
PHOTOGRAPHS = 16
ROUNDS = 5


def full_size(recipe: Recipe, photos: list[Photo], digests: Digests) -> Callable[[int, int], object]:
    """The slow way: decode, change the photograph at its own size, then resize."""
    augment = Augmenter(recipe.augmentation, recipe.seed)

    def sample(epoch: int, index: int) -> object:
        image, mask = read_pair(photos[index], digests)
        changed = augment(image, mask.astype("uint8") * 255, epoch, index)
        return [to_input(part, recipe.input) for part in changed]

    return sample


def own_size(recipe: Recipe, photos: list[Photo], digests: Digests) -> Callable[[int, int], object]:
    """As training does it: at the network's input size, from the cache if the recipe has one."""
    samples = Samples(photos, digests, recipe)
    return lambda epoch, index: samples[epoch, index]


def main() -> None:
    """Prints a Markdown table; each round does all ways in turn, on one thread."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds full")
    cv2.setNumThreads(1)
    dataset = open_dataset(Path(os.environ["BACKDROP_CARVANA"], "full"))
    photos = [photo for photo in dataset.photos.values() if photo.mask][:PHOTOGRAPHS]
    digests = file_digests(photos)
    print(
        "| recipe, input | full-size augmentation | decoded each time | default: decoded once | default / full-size |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in RECIPES:
        recipe, plain = (find_recipe(name, [f"loading.cache={cache}"]) for cache in ("disk", "none"))
        ways = [full_size(recipe, photos, digests), own_size(plain, photos, digests), own_size(recipe, photos, digests)]
        rates: list[list[float]] = [[] for _ in ways]
        for epoch in range(ROUNDS):
            for way, found in zip(ways, rates, strict=True):
                start = time.perf_counter()
                for index in range(PHOTOGRAPHS):
                    way(epoch, index)
                found.append(PHOTOGRAPHS / (time.perf_counter() - start))
        ratio = median(default / full for full, _, default in zip(*rates, strict=True))
        cells = [f"`{name}`, {recipe.input.size}", *(f"{median(found):.0f}" for found in rates), f"{ratio:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
