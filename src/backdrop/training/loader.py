"""Loads batches in worker processes, and says why a worker died."""

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

from backdrop.common.environment import read_count
from backdrop.common.errors import BackdropError, TrainingError, cause
from backdrop.common.processes import cpus

Item = tuple[NDArray[np.uint8], NDArray[np.uint8], np.float32]
Loaded = Sequence[torch.Tensor] | BackdropError
GPU_WORKERS = 8

# When a worker dies, torch's SIGCHLD handler raises anywhere in the main thread. If that thread holds a queue's lock,
# the process hangs. This keeps torch from installing the handler: the loader checks its workers every few seconds.
signal_handling._SIGCHLD_handler_set = True


def load(
    samples: Dataset[Any], keys: Iterable[list[Any]], workers: int | None, device: torch.device
) -> Iterator[Sequence[torch.Tensor]]:
    """Batches in the host's memory, pinned if the device is a GPU.

    Args:
        samples: returns an item, or the error that occurred, by key.
        keys: the keys of each batch.
        workers: number of worker processes; None chooses by device.
        device: where the batches are used.

    Raises:
        BackdropError: the first error among the items.
        TrainingError: if a worker died.
    """
    count = _worker_count(workers, device)
    if count:
        # Here, before the fork: OpenCV's threads don't survive it, and a worker that ends them waits for ever.
        cv2.setNumThreads(1)
    loader = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=count,
        multiprocessing_context="fork" if count else None,  # since Python 3.14, no longer the default
        collate_fn=_collate_shared if count else collate,
        pin_memory=device.type == "cuda",
    )
    return raise_errors(_watched(iter(loader)))


def _worker_count(requested: int | None, device: torch.device) -> int:
    """The requested number; by default one per CPU of this process (at most 8) for a GPU, and none for a CPU."""
    if requested is not None:
        return requested
    own = cpus() // read_count("LOCAL_WORLD_SIZE")
    return min(GPU_WORKERS, own) if device.type == "cuda" else 0


def collate(items: Sequence[Item | BackdropError]) -> Loaded:
    """The samples as a batch, or the first error among them."""
    return next((item for item in items if isinstance(item, BackdropError)), None) or default_collate(list(items))


def _collate_shared(items: Sequence[Item | BackdropError]) -> Loaded:
    """A worker's batch, all of it in shared memory.

    What isn't there yet is put there by a thread that only prints its error, and the process would wait for ever.
    """
    batch = collate(items)
    if not isinstance(batch, BackdropError):
        for tensor in batch:
            tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return batch


def raise_errors(batches: Iterable[Loaded]) -> Iterator[Sequence[torch.Tensor]]:
    """The batches; raises the first error among them."""
    for batch in batches:
        if isinstance(batch, BackdropError):
            raise batch
        yield batch


def _watched(batches: Iterator[Loaded]) -> Iterator[Loaded]:
    """The loader's batches, with a useful error if a worker dies.

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
        remedy = "Give the process more memory, or set loading.workers=0"
        if -signal.SIGKILL not in codes:  # a full /dev/shm kills a worker with SIGBUS
            remedy = f"If /dev/shm is full, mount a larger one (in a pod, an emptyDir of medium Memory). {remedy}"
        how = ", ".join(sorted(signal.Signals(-code).name if code < 0 else f"exit {code}" for code in codes))
        what = f"A data loading worker died ({how or cause(str(error))})"
        raise TrainingError(f"{what}; /dev/shm has {free:.0f} MiB free of {total:.0f}", remedy) from error


def _shared_memory() -> tuple[int, int]:
    """Free and total bytes of /dev/shm; 0 if there is none."""
    try:
        usage = shutil.disk_usage("/dev/shm")  # noqa: S108  # torch's workers pass batches through it
        return usage.free, usage.total
    except OSError:
        return 0, 0
