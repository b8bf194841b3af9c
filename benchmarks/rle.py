"""Compares `encode_rle` with pycocotools: from a mask to the submission's string, on real masks at full size.

    BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/rle.py

pycocotools (BSD license; `pip install pycocotools`, nothing else here needs it) runs along columns, so it's given the
transposed mask: a view, without a copy. It gives its runs packed as text, which are unpacked with numpy. Prints the
medians over all masks, and the ratios to ours.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from backdrop.common.threads import in_threads
from backdrop.data.dataset import open_dataset, read_mask
from backdrop.data.masks import Mask
from backdrop.data.rle import encode_rle

ROUNDS = 5


def pack(mask: Mask) -> bytes:
    """Pycocotools' text for a mask (H, W), read row by row."""
    counts: bytes = coco.encode(mask.T.view(np.uint8))["counts"]
    return counts


def unpack(text: bytes) -> NDArray[np.int64]:
    """Run lengths, zeros first, from pycocotools' text.

    Five bits a character, the lowest first; 32 says that more follow, 16 in the last that the number is negative. From
    the fourth on, a number is the difference to the last but one. Source: pycocotools' maskApi.c, `rleToString`.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(codes.size) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((codes & 31) << place, first)
    numbers -= (codes[last] >> 4 & 1) << (place[last] + 5)
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def encode_with_pycocotools(mask: Mask) -> str:
    """The submission's string of a mask (H, W)."""
    lengths = unpack(pack(mask))
    edges = np.cumsum(lengths)
    ones = lengths[1::2]
    pairs = np.stack([edges[::2][: ones.size] + 1, ones], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def milliseconds(function: Callable[[Mask], object], mask: Mask) -> float:
    """Milliseconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function(mask)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    """Checks that both return the same strings, then times them mask by mask."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA names no folder that holds full/")
    photos = open_dataset(Path(os.environ["BACKDROP_CARVANA"]) / "full").photos.values()
    masks = in_threads(read_mask, [photo.mask for photo in photos if photo.mask])
    texts = [encode_rle(mask) for mask in masks]
    if texts != [encode_with_pycocotools(mask) for mask in masks]:
        sys.exit("The strings differ")
    ways = {"backdrop": encode_rle, "pycocotools": encode_with_pycocotools, "pycocotools, not unpacked": pack}
    rows = [[milliseconds(way, mask) for way in ways.values()] for mask in masks]
    times = dict(zip(ways, zip(*rows, strict=True), strict=True))
    runs = median(len(text.split()) // 2 for text in texts)
    print(f"{len(masks)} masks, median {runs:.0f} runs and {median(map(len, texts)):.0f} characters; the same strings")
    for name, found in times.items():
        print(f"{name:26} {median(found):.3f} ms, {median(found) / median(times['backdrop']):.2f} of backdrop's")


if __name__ == "__main__":
    main()
