"""How fast a recipe trains here, and how much memory it takes: measured by the real thing, for seconds."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from backdrop.common.devices import device
from backdrop.common.errors import TrainingError
from backdrop.config import Recipe
from backdrop.data.dataset import Digests, Photo, read_chunks
from backdrop.inference.predict import predict_all
from backdrop.training.compute import computing, device_name
from backdrop.training.distributed import ALONE
from backdrop.training.losses import make_loss
from backdrop.training.samples import Samples
from backdrop.training.state import begin
from backdrop.training.step import set_lr
from backdrop.training.trainer import first_network, take_step

WARM_STEPS = 3  # torch looks for its fastest algorithms in the first ones
TIMED_STEPS = 3
ENDLESS = 10**6  # epochs
OUT_OF_MEMORY = ("out of memory", "allocate memory")  # as CUDA and the CPU say it; or Linux kills the process
RATE = 1e-6  # so low that no loss runs away


@dataclass(frozen=True)
class Throughput:
    """Photographs a second that are trained on and judged, and the most memory taken meanwhile, in bytes.

    The memory is the GPU's; without one, the process's own.
    """

    training: float
    judging: float
    memory: int
    device: str


def measure(recipe: Recipe, photos: Sequence[Photo], digests: Digests, seconds: float) -> Throughput:
    """Trains and judges in a process of its own, so that a recipe that is too large for the machine harms nothing.

    Args:
        recipe: what is to be trained; from random weights, which are as fast as others.
        photos: what to train on again and again, each with a mask.
        digests: sha256 of image and mask by stem.
        seconds: how long to train at least, after some steps to warm up.

    Raises:
        TrainingError: if the memory doesn't suffice.
        DataError: if a photograph can't be read.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, recipe, photos, digests, seconds).result()
        except (BrokenProcessPool, RuntimeError) as error:
            if not isinstance(error, BrokenProcessPool) and not any(word in str(error) for word in OUT_OF_MEMORY):
                raise
            size = f"{recipe.name} at {recipe.input.size} in batches of {recipe.batch_size}"
            remedy = "Set a smaller batch_size and a larger accumulate, or measure on a larger machine"
            raise TrainingError(f"{size} needs more memory than there is", remedy) from error


def _measure(recipe: Recipe, photos: Sequence[Photo], digests: Digests, seconds: float) -> Throughput:
    where, endless = device(), recipe.model_copy(update={"epochs": ENDLESS})
    steps = Samples(photos, digests, endless).stream(0, 0, where)
    state, loss = begin(recipe, None, first_network(recipe), "", ALONE), make_loss(**recipe.loss_options())
    set_lr(state.optimizer, RATE)
    state.network.train()
    with computing(state.progress.precision, recipe.compute.deterministic, state.progress.threads):
        seen, count, start = 0, 0, 0.0
        while count < WARM_STEPS + TIMED_STEPS or _now(where) - start < seconds:
            if count == WARM_STEPS:
                start = _now(where)
            batches = next(steps)
            take_step(recipe, loss, state, batches)
            count += 1
            seen += sum(len(batch.images) for batch in batches) if count > WARM_STEPS else 0
        training = seen / (_now(where) - start)
        network = state.candidate()
        start = _now(where)
        for pairs in read_chunks(photos, digests):
            for probability in predict_all(
                network, [image for image, _ in pairs], recipe.input, recipe.tta, recipe.legacy.output_align_corners
            ):
                probability.cpu()
        judging = len(photos) / (_now(where) - start)
    return Throughput(training, judging, _memory(where), device_name(where))


def _now(where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.monotonic()


def _memory(where: torch.device) -> int:
    if where.type == "cuda":
        return torch.cuda.max_memory_reserved(where)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
