"""Plants faults in real masks, and counts how many of them `backdrop review` puts among the most doubtful tenth.

.venv/bin/python benchmarks/review.py DATA --plan CSV --members MEMBERS…

Photographs are predicted by members that did not train on them. In each of 100 rounds, a twentieth of the masks gets a
fault, a quarter of each kind: all holes filled, a part cut off, another object's mask from the same side, or the mask
moved by 4 pixels. The members trained on the good masks.
"""

import argparse
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from backdrop.common.progress import progress
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import Row, read_plan, verify
from backdrop.data.masks import Mask, PackedMask
from backdrop.evaluation.review import find_regions, severity
from backdrop.evaluation.scoring import judges, predictions
from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import gather
from backdrop.steps.members import open_member

ROUNDS, FAULTY, SHOWN = 100, 0.05, 0.1
SHIFT = 4  # pixels
PART = (0.02, 0.04)  # radius of what is cut off, of the diagonal
HOLE = 20  # pixels; masks with less of holes have none to fill

Levels = NDArray[np.uint8]
Masks = dict[Row, PackedMask]
Fault = Callable[[np.random.Generator, Masks, Row], Mask]


def holes(mask: Mask) -> Mask:
    """The backdrop that doesn't reach the photograph's edge."""
    _, numbers = cv2.connectedComponents((~mask).view(np.uint8), connectivity=4)
    edge = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    return np.asarray(~mask & ~np.isin(numbers, edge))


def fill(_: np.random.Generator, masks: Masks, row: Row) -> Mask:
    """Fills all holes."""
    mask = masks[row].unpack()
    return np.asarray(mask | holes(mask))


def cut(random: np.random.Generator, masks: Masks, row: Row) -> Mask:
    """Cuts off what is near a point of the outline."""
    mask = masks[row].unpack()
    outline = mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    place = random.choice(np.argwhere(outline))
    radius = random.uniform(*PART) * math.hypot(*mask.shape)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return np.asarray(mask & ((rows - place[0]) ** 2 + (columns - place[1]) ** 2 > radius**2))


def swap(random: np.random.Generator, masks: Masks, row: Row) -> Mask:
    """Another object's mask, from the same side."""
    others = [other for other in masks if other.view == row.view and other.object != row.object]
    return masks[others[random.integers(len(others))]].unpack()


def shift(random: np.random.Generator, masks: Masks, row: Row) -> Mask:
    """Moves the mask in any direction."""
    angle = random.uniform(0, 2 * math.pi)
    step = round(SHIFT * math.sin(angle)), round(SHIFT * math.cos(angle))
    return np.roll(masks[row].unpack(), step, (0, 1))


FAULTS: dict[str, Fault] = {"holes filled": fill, "part cut off": cut, "masks swapped": swap, "shifted by 4 px": shift}


def probability_of(levels: Levels) -> NDArray[np.float32]:
    """A probability that was kept in a byte a pixel."""
    return levels.astype(np.float32) / np.float32(255)


def plant(random: np.random.Generator, masks: Masks, hollow: list[Row]) -> dict[Row, str]:
    """The photographs of a round that get a fault, and which."""
    names = list(FAULTS)
    faults: dict[Row, str] = {}
    while len(faults) < round(FAULTY * len(masks)):
        name = names[len(faults) % len(names)]
        among = hollow if name == "holes filled" else list(masks)
        faults.setdefault(among[random.integers(len(among))], name)
    return faults


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--plan", required=True)
    parser.add_argument("--members", nargs="+", required=True)
    given = parser.parse_args()
    plan, dataset = read_plan(given.plan), open_dataset(given.data)
    digests = verify(plan, dataset)
    who = judges([plan], digests, keep_networks(gather([open_member(address) for address in given.members], None)))
    rows = [row for row in who if row.fold is not None]
    found: dict[Row, Levels] = {}
    masks: Masks = {}
    scores: dict[Row, float] = {}
    for row, probability, mask in predictions(dataset, digests, who, rows):
        found[row], masks[row] = np.rint(probability * 255).astype(np.uint8), PackedMask.of(mask)
        scores[row] = severity(find_regions(probability_of(found[row]), mask))
    hollow = [row for row in masks if holes(masks[row].unpack()).sum() >= HOLE]
    seen = [found[row][holes(masks[row].unpack())] < 128 for row in hollow]
    hits: dict[str, list[bool]] = {name: [] for name in FAULTS}
    with progress("planting faults", ROUNDS) as advance:
        for seed in range(ROUNDS):
            random = np.random.default_rng(seed)
            faults = plant(random, masks, hollow)
            faulty = {
                row: severity(find_regions(probability_of(found[row]), FAULTS[name](random, masks, row)))
                for row, name in faults.items()
            }
            now = scores | faulty
            ranking = sorted(masks, key=lambda row: -now[row])[: round(SHOWN * len(masks))]
            for row, name in faults.items():
                hits[name].append(row in ranking)
            advance()
    share = 100 * np.concatenate(seen).mean()
    print(f"{len(masks)} masks, {len(hollow)} of them with holes, of whose pixels the members see {share:.1f} %\n")
    print("| fault | planted | in the first tenth | at random |\n| --- | --- | --- | --- |")
    for name, of in {**hits, "all": [hit for part in hits.values() for hit in part]}.items():
        print(f"| {name} | {len(of)} | {100 * sum(of) / len(of):.1f} % | {100 * SHOWN:.0f} % |")


if __name__ == "__main__":
    main()
