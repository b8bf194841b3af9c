"""What many members cost beside their networks: summed in memory, or written as 8-bit PNGs and averaged afterwards.

.venv/bin/python benchmarks/predict.py PHOTOS MEMBER            the two ways, CPU time and disk
.venv/bin/python benchmarks/predict.py PHOTOS MEMBER --memory   memory of `predict` through 1,000 photographs
.venv/bin/python benchmarks/predict.py PHOTOS MEMBER --precision   the network in float32 and in bfloat16

PHOTOS is a folder, MEMBER a finished member's folder, which stands for ten. Photographs are repeated under other names
where there are too few. The winners wrote PNGs. The masks of PHOTOS `train` are in `train_masks` beside it.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from torch import nn

from backdrop.data.dataset import read_image, read_mask
from backdrop.data.masks import Mask, binarize, dice
from backdrop.data.rle import encode_rle
from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import EnsembleModel, Inputs, member_answers
from backdrop.inference.mean import Mean
from backdrop.inference.member import Member, read_member

MEMBERS, PHOTOGRAPHS, MANY = 10, 12, 1000
PARTS = ("decode", "networks", "enlarge", "merge")
PREDICT = """
import sys
from backdrop.steps.predict import predict
predict(sys.argv[1], sys.argv[2], sys.argv[3:], format="rle")
"""


class Clock:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts a block to a part."""
        start = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start


def in_memory(model: EnsembleModel, photos: Sequence[Path], folder: Path, clock: Clock) -> None:
    """As the product does it. What it enlarges counts as merging, because it enlarges no more than it merges."""
    for photo in photos:
        with clock("decode"):
            prepared = model.prepare(read_image(photo))
        mean = Mean()
        for member, weight in zip(model.members, model.weights(), strict=True):
            with clock("networks"):
                (answer,) = member_answers(member, Inputs([[prepared]]))
            with clock("merge"):
                mean.keep(answer, weight)
        with clock("merge"):
            (folder / f"{photo.stem}.txt").write_text(encode_rle(mean.mask()))


def by_files(model: EnsembleModel, photos: Sequence[Path], folder: Path, clock: Clock) -> None:
    """As the winners did it: each member writes PNGs, and another script averages them."""
    for member in model.members:
        (folder / member.name).mkdir()
        for photo in photos:
            with clock("decode"):
                prepared = model.prepare(read_image(photo))
            with clock("networks"):
                (answer,) = member_answers(member, Inputs([[prepared]]))
            with clock("enlarge"):
                probability = answer.probability()
            with clock("merge"):
                levels = np.rint(probability.numpy() * 255).astype(np.uint8)
                cv2.imwrite(str(folder / member.name / f"{photo.stem}.png"), levels)
    for photo in photos:
        with clock("merge"):
            total: np.ndarray | float = 0.0
            for member in model.members:
                picture = cv2.imread(str(folder / member.name / f"{photo.stem}.png"), cv2.IMREAD_GRAYSCALE)
                assert picture is not None
                total = total + picture.astype(np.float32) / 255
            (folder / f"{photo.stem}.txt").write_text(encode_rle(np.asarray(total) / len(model.members) > 0.5))


def compare(model: EnsembleModel, photos: Sequence[Path]) -> None:
    """Prints CPU milliseconds for each photograph, and bytes on disk."""
    found: dict[str, tuple[dict[str, float], int]] = {}
    ways: dict[str, Callable[[EnsembleModel, Sequence[Path], Path, Clock], None]] = {
        "summed in memory": in_memory,
        "8-bit PNGs": by_files,
    }
    print("| way | decode | networks | enlarge | merge | disk, kB |")
    for name, way in ways.items():
        with TemporaryDirectory() as folder:
            clock = Clock()
            way(model, photos, Path(folder), clock)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        found[name] = clock.seconds, size
        times = " | ".join(f"{1000 * clock.seconds.get(part, 0.0) / len(photos):.1f}" for part in PARTS)
        print(f"| {name} | {times} | {size / 1000 / len(photos):,.0f} |", flush=True)
    (ours, our_size), (theirs, their_size) = found.values()
    for parts in (["merge"], ["enlarge", "merge"], ["decode", "enlarge", "merge"]):
        cost, least = (sum(seconds.get(part, 0.0) for part in parts) for seconds in (theirs, ours))
        print(f"{', '.join(parts)}: {cost / least:.1f} times")
    print(f"disk: {their_size / our_size:.0f} times")


def show_memory(photos: Sequence[Path], member: Path) -> None:
    """Prints the largest memory of `predict` in each tenth of its time, through many photographs."""
    with TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        for index in range(MANY):
            os.link(photos[index % len(photos)], images / f"{index:04d}_{photos[index % len(photos)].name}")
        process = subprocess.Popen([sys.executable, "-c", PREDICT, str(images), str(Path(folder, "out")), str(member)])
        held: list[int] = []
        while process.poll() is None:
            held.append(resident(process.pid))
            time.sleep(0.01)
    assert process.returncode == 0
    print(*(f"{max(tenth) / 2**20:.0f}" for tenth in np.array_split(held, 10)), "MiB", flush=True)


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def show_precision(photos: Sequence[Path], member: Member) -> None:
    """Prints each precision's cost, its Dice, and what it changes."""
    masks: dict[str, list[Mask]] = {}
    truths = [read_mask(next(p.parents[1].glob(f"train_masks/{p.stem}_mask.*"))) for p in photos]
    print("| precision | network, CPU-ms | Dice | largest change of a photograph's Dice | pixels changed |")
    for precision in ("fp32", "bf16"):
        compute = member.recipe.compute.model_copy(update={"precision": precision})
        recipe = member.recipe.model_copy(update={"compute": compute})
        model = keep_networks(EnsembleModel((Member(member.folder, member.record, recipe),), {}))
        clock, masks[precision] = Clock(), []
        for photo in photos:
            prepared = model.prepare(read_image(photo))
            with clock("network"):
                (answer,) = member_answers(model.members[0], Inputs([[prepared]]))
            masks[precision].append(binarize(answer.probability()))
        scores = [[dice(mask, truth) for mask, truth in zip(found, truths, strict=True)] for found in masks.values()]
        change = max(abs(one - other) for one, other in zip(scores[0], scores[-1], strict=True))
        pixels = np.mean([(one != other).mean() for one, other in zip(masks["fp32"], masks[precision], strict=True)])
        cost = 1000 * clock.seconds["network"] / len(photos)
        print(f"| {precision} | {cost:.1f} | {np.mean(scores[-1]):.5f} | {change:.5f} | {pixels:.5%} |", flush=True)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("member", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--precision", action="store_true")
    given = parser.parse_args()
    photos = sorted(given.photos.glob("*.jpg"))
    if given.memory:
        show_memory(photos, given.member)
        return
    one = read_member(given.member)
    if given.precision:
        show_precision(photos, one)
        return
    network = one.network()

    class Loaded(Member):
        def network(self) -> nn.Module:
            return network

    records = [one.record.model_copy(update={"fold": fold}) for fold in range(MEMBERS)]
    compare(
        EnsembleModel(tuple(Loaded(one.folder, record, one.recipe) for record in records), {}),
        [photos[index % len(photos)] for index in range(PHOTOGRAPHS)],
    )


if __name__ == "__main__":
    main()
