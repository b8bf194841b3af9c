"""Measures how fast a recipe trains on this machine, and how much memory it needs, by a few real steps."""

import math
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from backdrop.common.devices import device
from backdrop.common.errors import TrainingError, is_out_of_memory
from backdrop.config import Recipe
from backdrop.data.cache import open_cache
from backdrop.data.dataset import Digests, Photo
from backdrop.training.compute import computing, device_name
from backdrop.training.distributed import ALONE
from backdrop.training.judging import Labeled, dices
from backdrop.training.losses import Loss, make_loss
from backdrop.training.lr_schedules import lengths
from backdrop.training.samples import Samples
from backdrop.training.state import State, begin
from backdrop.training.step import set_lr
from backdrop.training.trainer import first_network, take_step

WARM_STEPS = 3  # torch selects its algorithms during the first steps
TIMED_STEPS = 3
QUEUED_STEPS = 8  # `train` doesn't wait for the GPU after a step either, but prepares the next meanwhile
ENDLESS = 10**6  # epochs
STATUS = Path("/proc/self/status")  # Linux's own record of the peak: `getrusage` has that of the parent, too
LR = 1e-6  # so low that training can't diverge


@dataclass(frozen=True)
class Throughput:
    """Photographs per second in training and in validation, and peak memory in bytes.

    Training is the mean over all epochs, because a phase with a `scale` is faster. The memory is the GPU's; without a
    GPU, the process's.
    """

    training: float
    judging: float
    memory: int
    device: str


def measure(
    recipe: Recipe, photos: Sequence[Photo], digests: Digests, seconds: float, limit_s: float = math.inf
) -> Throughput:
    """Trains and validates in a separate process, so that running out of memory can't kill the caller.

    Args:
        recipe: what to train, from random weights.
        photos: what to train on, each with a mask.
        digests: sha256 of image and mask by stem.
        seconds: minimum duration of training after the warm-up, at all of the schedule's scales together.
        limit_s: stop training after this time, even within the warm-up, once two steps are done.

    Raises:
        TrainingError: if there is too little memory.
        DataError: if a photograph can't be read.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, recipe, photos, digests, seconds, limit_s).result()
        except (BrokenProcessPool, RuntimeError) as error:
            if not isinstance(error, BrokenProcessPool) and not is_out_of_memory(error):
                raise
            size = f"{recipe.name} at {recipe.input.size} in batches of {recipe.batch_size}"
            remedy = "Set a smaller batch_size and a larger accumulate, or measure on a larger machine"
            raise TrainingError(f"{size} needs more memory than this machine has", remedy) from error


def _measure(recipe: Recipe, photos: Sequence[Photo], digests: Digests, seconds: float, limit_s: float) -> Throughput:
    target = device()
    state, loss = begin(recipe, None, first_network(recipe), "", ALONE), make_loss(**recipe.loss_options())
    set_lr(state.optimizer, LR)
    epochs, first = Counter[float](), {phase.scale: phase for phase in reversed(recipe.schedule)}
    for phase, length in zip(recipe.schedule, lengths(recipe.schedule, recipe.epochs), strict=True):
        epochs[phase.scale] += length
    with computing(state.progress.precision, recipe.compute.deterministic, state.progress.threads):
        duration = 0.0  # of training on one photograph in each epoch
        for scale in +epochs:
            endless = recipe.model_copy(update={"epochs": ENDLESS, "schedule": (first[scale],)})
            samples = Samples(photos, digests, endless)
            times = seconds / len(+epochs), limit_s / len(+epochs)
            duration += epochs[scale] / _pace(endless, samples, state, loss, *times)
        network = state.candidate()
        labeled = Labeled(photos, open_cache(photos, digests, recipe.input, recipe.loading.cache))
        dices(network, labeled, recipe)  # reads the masks, as the first epoch does
        start = _now(target)
        dices(network, labeled, recipe)
        judging = len(photos) / (_now(target) - start)
    return Throughput(recipe.epochs / duration, judging, _peak_memory(target), device_name(target))


def _pace(recipe: Recipe, samples: Samples, state: State, loss: Loss, seconds: float, limit_s: float) -> float:
    """Photographs per second."""
    target = device()
    steps = samples.stream(0, 0, target)
    state.network.train()
    times, seen = [_now(target)], [0]  # at the start, and after each step
    while _goes_on(times, seconds, limit_s):
        batches = next(steps)
        take_step(recipe, loss, state, batches)
        seen.append(sum(len(batch.images) for batch in batches))
        waits = len(times) <= WARM_STEPS or len(times) % QUEUED_STEPS == 0
        times.append(_now(target) if waits else time.monotonic())
    warm = min(WARM_STEPS, len(times) - 2)
    return sum(seen[warm + 1 :]) / (_now(target) - times[warm])


def _goes_on(times: Sequence[float], seconds: float, limit_s: float) -> bool:
    if len(times) > 2 and times[-1] - times[0] > limit_s:
        return False
    return len(times) <= WARM_STEPS + TIMED_STEPS or times[-1] - times[WARM_STEPS] < seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        lines = STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # macOS, which counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
