"""`sample`: renders a synthetic studio dataset to try things out."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError
from backdrop.common.outputs import is_output, output_folder, require
from backdrop.common.places import checked_address
from backdrop.common.progress import progress, working
from backdrop.common.words import count
from backdrop.config import parse_size
from backdrop.config.records import Record
from backdrop.data.masks import encode_png
from backdrop.data.synthetic import draw_car, object_name, render

STEP = "sample"
RECORD = "sample.json"
JPEG_QUALITY = 90
MIN_SIDE, MAX_SIDE = 64, 16_384
MAX_PHOTOGRAPHS = 1_000_000


class SampleRecord(Record):
    """`sample.json`: the options; equal options give equal bytes."""

    objects: int
    views: int
    size: str
    seed: int


@working("drawing the sample")
def sample(out: str, objects: int = 14, views: int = 16, size: str = "768x512", seed: int = 0) -> SampleRecord:
    """Renders photographs of cars in a studio, and their masks, in Kaggle's Carvana layout.

    Args:
        out: the dataset's folder; the sample of an earlier equal call isn't changed.
        objects: number of cars.
        views: photographs of each car, a full turn of the turntable.
        size: WxH of the photographs, in pixels.
        seed: random seed of the cars.

    Raises:
        ConfigError: if a number is too small or too large.
        DataError: if another sample stands there.
        StorageError: if something else stands there, or it can't be written.
    """
    width, height = parse_size(size)
    record = SampleRecord(objects=objects, views=views, size=size, seed=seed)
    small = min(objects, views) < 1 or min(width, height) < MIN_SIDE
    if small or objects * views > MAX_PHOTOGRAPHS or max(width, height) > MAX_SIDE:
        raise ConfigError(
            f"{count(objects, 'object')} with {count(views, 'view')} at {size} can't be drawn",
            f"The minimum is 1 object, 1 view, 64x64; the maximum is {MAX_PHOTOGRAPHS:,} photographs of 16384x16384",
        )
    if _stands_there(out, record):
        return record
    require(out, STEP)
    with output_folder(out, STEP, RECORD) as folder:
        for name in ("train", "train_masks"):
            (folder / name).mkdir()
        tasks = [(index, view) for index in range(objects) for view in range(1, views + 1)]
        draw = partial(_draw, folder=folder, views=views, width=width, height=height, seed=seed)
        with progress("drawing photographs", len(tasks)) as advance, _pool() as pool:
            for _ in pool.map(draw, tasks, chunksize=4):
                advance()
        (folder / RECORD).write_text(record.model_dump_json(), encoding="utf-8")
    return record


def _pool() -> ProcessPoolExecutor:
    """Processes that end with this one, also if it's killed: by themselves they would wait forever."""
    return ProcessPoolExecutor(initializer=_watch_parent)


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is one of the pool's processes
    parent.join()
    os._exit(1)


def _stands_there(out: str, record: SampleRecord) -> bool:
    path = f"{checked_address(out)}/{RECORD}"
    if not storage.exists(path):
        return False
    if storage.read_bytes(path) == record.model_dump_json().encode():
        return True
    if is_output(out):
        raise DataError(f"{out} holds another sample", "Use another folder, or delete it")
    return False


def _draw(task: tuple[int, int], folder: Path, views: int, width: int, height: int, seed: int) -> None:
    index, view = task
    image, mask = render(draw_car(seed, index), view, views, width, height, seed)
    stem = f"{object_name(seed, index)}_{view:02d}"
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (folder / "train" / f"{stem}.jpg").write_bytes(jpeg.tobytes())
    (folder / "train_masks" / f"{stem}_mask.png").write_bytes(encode_png(mask))
