"""Counts the alarms of `backdrop drift` on real photographs that nobody changed, and on changed ones.

.venv/bin/python benchmarks/drift.py DATA --plan CSV --members MEMBERS…

Only objects that no member trained on are used: those of the holdout, and those that aren't in the plan. In each round,
two sets of different objects are drawn: a reference, and current ones. A fixed set of objects is also changed in three
ways, and compared with a reference that is drawn from the others. DATA has masks, so that a change can be outside of
the product.
"""

import argparse
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common.progress import progress
from backdrop.common.storage import sha256
from backdrop.data.dataset import Dataset, Photo, open_dataset, read_image, read_mask
from backdrop.data.folds import read_plan
from backdrop.data.masks import Mask
from backdrop.evaluation.drift import Drift, compare
from backdrop.evaluation.statistics import Statistics, measure_image, measure_prediction
from backdrop.inference.batch import keep_networks, lazily, outcomes
from backdrop.inference.ensemble import EnsembleModel, Photograph, gather
from backdrop.steps.members import open_member

ROUNDS, UNCHANGED = 20, 200
ALPHAS = (0.01, 0.05)
REFERENCE, CURRENT, FEW = 60, 30, 10  # objects
LIGHT = 0.9
CROP = 0.04  # of each side, cut off at the left and at the top
FLOOR = 0.6  # below this share of the height
TINT, TEXTURE = (0.96, 0.98, 1.0), 5  # of the floor: factors of its color, and levels of its stripes

Image = NDArray[np.uint8]
Change = Callable[[Image, Mask], Image]
Objects = dict[str, list[Statistics]]


def darker(image: Image, mask: Mask) -> Image:  # noqa: ARG001  # a `Change`
    """Less light."""
    return np.asarray(np.rint(image * LIGHT), np.uint8)


def cropped(image: Image, mask: Mask) -> Image:  # noqa: ARG001  # as above
    """What a camera sees that is a little nearer and turned to the right, at the same size."""
    height, width = image.shape[:2]
    part = image[round(CROP * height) :, round(CROP * width) :]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def turntable(image: Image, mask: Mask) -> Image:
    """Another floor around the product: tinted, with faint stripes."""
    rows, columns = np.indices(mask.shape)
    floor = (rows > FLOOR * mask.shape[0]) & ~mask
    stripes = np.where((rows + columns) // 8 % 2, TEXTURE, -TEXTURE)[..., None]
    other = np.clip(image * np.array(TINT) + stripes, 0, 255)
    return np.where(floor[..., None], np.rint(other), image).astype(np.uint8)


CHANGES: dict[str, Change] = {"darker light": darker, "another crop": cropped, "another turntable": turntable}


def measure(model: EnsembleModel, photos: Sequence[Photo], change: Change | None, title: str) -> Objects:
    """The statistics of photographs by their object."""

    def prepare(photo: Photo) -> tuple[Photograph, tuple[Photo, dict[str, float]]]:
        image = read_image(photo.image)
        if change is not None:
            assert photo.mask is not None
            image = change(image, read_mask(photo.mask))
        return model.prepare(image), (photo, measure_image(image))

    found: Objects = {}
    with progress(title, len(photos)) as advance:
        for (photo, values), outcome in outcomes(model, lazily(prepare, photos)):
            assert outcome.probability is not None
            values |= measure_prediction(outcome.probability, model.cut(outcome, photo.view))
            row = Statistics(photo.stem, photo.object, photo.view, "", values)
            found.setdefault(photo.object, []).append(row)
            advance()
    return found


def unseen(dataset: Dataset, plan: str) -> list[str]:
    """The objects that no member trained on, in an order by hashes."""
    places = read_plan(plan).assignment()
    names = {photo.object for photo in dataset.photos.values() if places.get(photo.object) is None}
    return sorted(names, key=lambda name: sha256(name.encode()))


def rows(objects: Objects, names: Sequence[str]) -> list[Statistics]:
    """The photographs of some objects."""
    return [one for name in names for one in objects[name]]


def report(title: str, size: int, found: Sequence[Drift]) -> None:
    """Prints a row of the table."""
    alarms = [f"{sum(one.p <= alpha for one in found)} of {len(found)}" for alpha in ALPHAS]
    seen = sorted({one.moved[0].statistic for one in found if one.moved}) if title in CHANGES else []
    middle = f"{np.median([one.p for one in found]):.4f}"
    print(f"| {' | '.join([title, str(size), *alarms, middle, ', '.join(seen)])} |", flush=True)


def draw(seed: int, names: Sequence[str], count: int) -> list[str]:
    """Some of the objects, in any order."""
    return [str(name) for name in np.random.default_rng(seed).permutation(names)[:count]]


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--plan", required=True)
    parser.add_argument("--members", nargs="+", required=True)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    model = keep_networks(gather([open_member(address) for address in given.members], None))
    names = unseen(dataset, given.plan)
    altered, others = names[:CURRENT], names[CURRENT:]
    photos = [photo for photo in dataset.photos.values() if photo.object in names]
    plain = measure(model, photos, None, "unchanged")
    few = [photo for photo in photos if photo.object in altered]
    changed = {title: measure(model, few, change, title) for title, change in CHANGES.items()}
    print(f"{len(names)} objects that no member trained on, {len(photos)} photographs\n")
    print("| photographs | current objects | alarms at 0.01 | at 0.05 | median p | what moved most |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in (CURRENT, FEW):
        drawn = [draw(seed, names, REFERENCE + size) for seed in range(UNCHANGED)]
        same = [compare(rows(plain, one[:REFERENCE]), rows(plain, one[REFERENCE:]), ALPHAS[0]) for one in drawn]
        report(f"unchanged, the first {ROUNDS}", size, same[:ROUNDS])
        report("unchanged", size, same)
        for title, objects in changed.items():
            pairs = [(draw(seed, others, REFERENCE), draw(seed, altered, size)) for seed in range(ROUNDS)]
            report(title, size, [compare(rows(plain, held), rows(objects, now), ALPHAS[0]) for held, now in pairs])


if __name__ == "__main__":
    main()
