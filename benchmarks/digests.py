"""Measures the digests of photographs (by file) and masks (by pixels): CPU time of one core per file.

    BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/digests.py

GIF masks are the dataset's own; PNG masks are the same, saved with one bit a pixel.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from backdrop.data.damage import find_gif_damage
from backdrop.data.dataset import file_digest, open_dataset, read_image, read_mask
from backdrop.data.masks import mask_digest

COUNT, ROUNDS = 100, 3


def milliseconds(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Milliseconds per item in the fastest round."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for item in items:
            function(item)
        rounds.append(time.process_time() - start)
    return 1000 * min(rounds) / len(items)


def main() -> None:
    """Prints a line per kind of work."""
    photos = [photo for photo in open_dataset(os.environ["BACKDROP_CARVANA"]).photos.values() if photo.mask][:COUNT]
    gifs = [photo.mask for photo in photos if photo.mask]
    with TemporaryDirectory() as folder:
        pngs = [Path(folder, f"{path.stem}.png") for path in gifs]
        for gif, png in zip(gifs, pngs, strict=True):
            cv2.imwrite(str(png), read_mask(gif).astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
        work: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [
            ("photograph, digest of the file", lambda photo: file_digest(photo.image), photos),
            ("photograph, decoded", lambda photo: read_image(photo.image), photos),
            ("GIF mask, digest of the file", file_digest, gifs),
            ("GIF mask, digest of the pixels", lambda path: mask_digest(read_mask(path)), gifs),
            ("GIF mask, looked at for damage", lambda path: find_gif_damage(path.read_bytes()), gifs),
            ("PNG mask, digest of the pixels", lambda path: mask_digest(read_mask(path)), pngs),
        ]
        for label, function, items in work:
            print(f"{label:32} {milliseconds(function, items):6.2f} ms")


if __name__ == "__main__":
    main()
