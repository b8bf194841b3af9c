"""Batches loaded by processes beside the training's own; who dies is named."""

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data._utils import signal_handling

from backdrop.common.errors import BackdropError, TrainingError

Item = tuple[NDArray[np.uint8], NDArray[np.uint8], np.float32]
Made = Sequence[torch.Tensor] | BackdropError
GPU_WORKERS = 8

# The loader's handler of SIGCHLD raises wherever the main thread is as a worker dies: amid a queue's lock, and then the
# process never ends. This says that it's set already. The loader looks every few seconds whether its workers live.
signal_handling._SIGCHLD_handler_set = True


def load(
    samples: Dataset[Any], keys: Iterable[list[Any]], workers: int | None, device: torch.device
) -> Iterator[Sequence[torch.Tensor]]:
    """Batches in the host's memory, in pages that a GPU can fetch by itself if there is one.

    Args:
        samples: gives an item, or the error that it met, by its key.
        keys: those of each batch.
        workers: how many processes load; None: as many as suit the device.
        device: where the batches are wanted.

    Raises:
        BackdropError: what an item is in place of a sample.
        TrainingError: if a worker died.
    """
    count = _count(workers, device)
    loader = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=count,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_begin if count else None,
    )
    return raised(_watched(iter(loader)))


def _count(wanted: int | None, device: torch.device) -> int:
    """As many as wanted, else one for each CPU that this process has for itself, where a GPU would wait for it."""
    if wanted is not None:
        return wanted
    here = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(GPU_WORKERS, here) if device.type == "cuda" else 0


def _begin(_: int) -> None:
    cv2.setNumThreads(1)


def collate(items: Sequence[Item | BackdropError]) -> Made:
    """The batch of some samples, or the first of their errors."""
    return next((item for item in items if isinstance(item, BackdropError)), None) or default_collate(list(items))


def raised(batches: Iterable[Made]) -> Iterator[Sequence[torch.Tensor]]:
    """The batches; an error among them is raised."""
    for batch in batches:
        if isinstance(batch, BackdropError):
            raise batch
        yield batch


def _watched(batches: Iterator[Made]) -> Iterator[Made]:
    """What the loader gives; if one of its workers dies, an error that says why it may have.

    Raises:
        TrainingError: if a worker died.
    """
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        workers = getattr(batches, "_workers", [])  # torch's message doesn't say how they died
        codes = {worker.exitcode for worker in workers if worker.exitcode}
        free, total = (size / 2**20 for size in _shared_memory())
        remedy = "Give it more memory, or --set loading.workers=0"
        if -signal.SIGKILL not in codes:  # one that finds /dev/shm full dies of SIGBUS
            remedy = f"If that's full, mount a larger one (in a pod, an emptyDir of medium Memory). {remedy}"
        how = ", ".join(sorted(signal.Signals(-code).name if code < 0 else f"exit {code}" for code in codes))
        what = f"A process that loads photographs died ({how or error})"
        raise TrainingError(f"{what}; /dev/shm has {free:.0f} of {total:.0f} MiB free", remedy) from error


def _shared_memory() -> tuple[int, int]:
    """Bytes free, and in all."""
    try:
        usage = shutil.disk_usage("/dev/shm")  # noqa: S108  # where torch's workers hand over their batches
        return usage.free, usage.total
    except OSError:
        return 0, 0
