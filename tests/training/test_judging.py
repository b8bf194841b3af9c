"""Validation: the same Dice however few photographs and masks are in memory, and memory that doesn't fill."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from backdrop.config import Input, find_recipe
from backdrop.data.cache import DecodedCache
from backdrop.data.dataset import Photo, open_dataset, read_pair
from backdrop.data.digests import content_digests
from backdrop.data.masks import Mask, PackedMask, binarize, dice
from backdrop.inference import ensemble
from backdrop.inference.predict import predict_all
from backdrop.training import judging
from backdrop.training.judging import Labeled
from backdrop.training.trainer import first_network
from tests.conftest import SMALL, draw_pair


def test_the_dice_is_the_same_however_little_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate([(48, 64), (30, 50), (90, 120), (48, 64), (200, 150), (40, 40), (48, 64)] * 2):
        draw_pair(tmp_path, f"car{index:02d}_01", index, size)
    photos = list(open_dataset(tmp_path).photos.values())
    digests, recipe = content_digests(photos), find_recipe("tiny", (*SMALL, "tta.hflip=true"))
    network = first_network(recipe).eval()
    pairs = [read_pair(photo, digests) for photo in photos]
    probabilities = predict_all(network, [image for image, _ in pairs], recipe.input, recipe.tta)
    whole = [dice(binarize(probability), truth) for probability, (_, truth) in zip(probabilities, pairs, strict=True)]
    for folder in (None, tmp_path / "cache"):
        labeled = Labeled(photos, DecodedCache(digests, recipe.input, folder))
        for kept in (0, 1000, 2**30):
            monkeypatch.setattr(judging, "MAX_KEPT", kept)
            assert judging.dices(network, labeled, recipe) == whole
    monkeypatch.setattr(judging, "PIXELS", 15_000)
    monkeypatch.setattr(ensemble, "BLOCK", 5_000)
    assert judging.dices(network, Labeled(photos, DecodedCache(digests, recipe.input)), recipe) == whole


def test_masks_are_read_once_and_as_many_at_a_time_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate([(20, 30), (10, 20), (10, 30), (20, 10), (40, 50), (10, 10), (10, 20), (10, 10)]):
        draw_pair(tmp_path, f"car{index}_01", index, size)
    photos = list(open_dataset(tmp_path).photos.values())
    digests, read, groups = content_digests(photos), judging.read_mask, list[str]()

    def noted(path: Path, digest: str) -> Mask:
        groups.append(path.name[3])
        return read(path, digest)

    monkeypatch.setattr(judging, "read_mask", noted)
    monkeypatch.setattr(judging, "PIXELS", 1000)
    labeled, read_threads, together = Labeled(photos, DecodedCache(digests, Input(size="8x8"))), judging.in_threads, []

    def in_threads(function: Callable[[Photo], PackedMask], group: Sequence[Photo]) -> list[PackedMask]:
        together.append(len(group))
        return read_threads(function, group)

    monkeypatch.setattr(judging, "in_threads", in_threads)
    for _ in range(2):
        for photo, mask in zip(photos, labeled.masks(photos), strict=True):
            assert np.array_equal(mask.unpack(), read_pair(photo, digests)[1])
    assert together == [1, 1, 5, 1] * 2
    assert sorted(groups) == [str(number) for number in range(8)]


@pytest.mark.parametrize(("size", "count"), [("64x32", 32), ("1920x1280", 32), ("4096x4096", 4), ("2560x1920", 16)])
def test_photographs_are_held_in_whole_batches(size: str, count: int) -> None:
    assert judging._chunk(Input(size=size)) == count


# Judges, and prints the process's highest resident size in MB before and after.
RUN = """
import sys
from pathlib import Path
from backdrop.config import find_recipe
from backdrop.data.cache import DecodedCache
from backdrop.data.dataset import open_dataset
from backdrop.data.digests import content_digests
from backdrop.training import judging
from backdrop.training.trainer import first_network
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
recipe = find_recipe("tiny", ["network.width=4", "network.depth=2", "input.size=128x128"])
photos = list(open_dataset(sys.argv[1]).photos.values())
network = first_network(recipe).eval()
first, rest = photos[:1], photos[1:]
def judge(photos, digests):
    judging.dices(network, judging.Labeled(photos, DecodedCache(digests, recipe.input)), recipe)
judge(first, content_digests(first))  # small: what it needs is libraries
digests = {photo.stem: tuple(sys.argv[2:]) for photo in rest}
before = peak()
judge(rest, digests)
print(before, peak())
"""


def growth_mb(tmp_path: Path, count: int, height: int, width: int) -> int:
    """How much the highest resident size grows with photographs of one size."""
    draw_pair(tmp_path, "car00_01", 0)
    draw_pair(tmp_path, "car01_01", 0, (height, width))
    photo, mask = tmp_path / "train" / "car01_01.jpg", tmp_path / "train_masks" / "car01_01_mask.png"
    for index in range(2, count + 1):
        (tmp_path / "train" / f"car{index:02d}_01.jpg").hardlink_to(photo)
        (tmp_path / "train_masks" / f"car{index:02d}_01_mask.png").hardlink_to(mask)
    (digest,) = content_digests([open_dataset(tmp_path).photos["car01_01"]]).values()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), *digest], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    return after - before


@pytest.mark.slow
@pytest.mark.parametrize(("count", "height", "width"), [(8, 8000, 10000), (32, 4000, 6000)], ids=["80 MP", "24 MP"])
def test_large_photographs_do_not_fill_the_memory(tmp_path: Path, count: int, height: int, width: int) -> None:
    assert growth_mb(tmp_path, count, height, width) < 1500  # all of them have 2.5 and 3 GB
