"""Compares Backdrop's training step with a plain one, for each network, in alternating steps.

    BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/train.py [RECIPE …]

The plain way: float32 by torch's defaults, memory laid out channels first, no fused optimizer, and photographs decoded,
resized and changed in the training's own thread. Both train the same network from the same weights on the same
photographs, at the recipe's own size; on a CPU one by one, or a step would take minutes.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from backdrop.common.devices import device
from backdrop.config import Recipe, find_recipe
from backdrop.data.dataset import open_dataset
from backdrop.data.digests import content_digests
from backdrop.training.compute import computing, device_name
from backdrop.training.distributed import ALONE
from backdrop.training.losses import make_loss
from backdrop.training.samples import Samples
from backdrop.training.state import begin
from backdrop.training.step import Batch, make_optimizer, set_lr, train_step
from backdrop.training.trainer import first_network, take_step

RECIPES = ("tiny", "unet-scratch", "linknet34", "unet11", "unet-vgg11")
PHOTOGRAPHS = 16
STEPS = 7
RATE = 1e-6

Act = Callable[[list[Batch]], object]


def plain_way(recipe: Recipe) -> Act:
    """A plain training step."""
    network = first_network(recipe).to(device())
    optimizer = make_optimizer(network, recipe.optimizer.kind, recipe.optimizer.weight_decay, recipe.optimizer.momentum)
    for group in optimizer.param_groups:
        group["fused"] = False
    set_lr(optimizer, RATE)
    loss = make_loss(**recipe.loss_options())
    network.train()

    def step(batches: list[Batch]) -> object:
        contiguous = [Batch(batch.images.contiguous(), batch.targets, batch.weights) for batch in batches]
        return train_step(network, optimizer, loss, contiguous, recipe.optimizer.clip_norm)

    return step


def our_way(recipe: Recipe) -> Act:
    """The step of `train`."""
    state, loss = begin(recipe, None, first_network(recipe), "", ALONE), make_loss(**recipe.loss_options())
    set_lr(state.optimizer, RATE)
    state.network.train()
    switches = recipe.compute.deterministic, state.progress.threads

    def step(batches: list[Batch]) -> object:
        with computing(state.progress.precision, *switches):
            return take_step(recipe, loss, state, batches)

    return step


def timed(act: Act, batches: list[Batch]) -> float:
    """Seconds until the device has finished a step."""
    start = time.perf_counter()
    act(batches)
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed_load(steps: Iterator[list[Batch]]) -> tuple[float, list[Batch]]:
    """Seconds until the next batch is loaded, and the batch."""
    start = time.perf_counter()
    batches = next(steps)
    return time.perf_counter() - start, batches


def main() -> None:
    """Prints a Markdown table of images per second and ratios."""
    if "BACKDROP_CARVANA" not in os.environ:
        sys.exit("BACKDROP_CARVANA must name the folder that holds full")
    dataset = open_dataset(Path(os.environ["BACKDROP_CARVANA"], "full"))
    photos = [photo for photo in dataset.photos.values() if photo.mask][:PHOTOGRAPHS]
    digests = content_digests(photos)
    print(f"{device_name(device())}, {torch.get_num_threads()} threads: images/s, medians of {STEPS}\n")
    print("| recipe, input, batch | plain step | step | step / plain | plain with loading | with loading | ratio |")
    print("|" + " --- |" * 7)
    for name in sys.argv[1:] or RECIPES:
        # Without the running mean of weights, which the plain step doesn't have.
        settings = ["pretrained=null", "ema=null", "epochs=1000"]
        settings += ["batch_size=1"] if device().type == "cpu" else []
        recipe = find_recipe(name, settings)
        plain_samples = Samples(photos, digests, find_recipe(name, [*settings, "loading.cache=none"]))
        plain_steps, steps = (one.stream(0, 0, device()) for one in (plain_samples, Samples(photos, digests, recipe)))
        plain, ours = plain_way(recipe), our_way(recipe)
        rows = []
        for _ in range(STEPS + 2):
            plain_load, batches = timed_load(plain_steps)
            load, own = timed_load(steps)
            rows.append((timed(plain, batches), timed(ours, own), plain_load, load))
        rows = rows[2:]
        plain_step, step = (median(column) for column in list(zip(*rows, strict=True))[:2])
        plain_all, all_ = median(row[0] + row[2] for row in rows), median(row[1] + row[3] for row in rows)
        ratio, whole = median(row[0] / row[1] for row in rows), median((r[0] + r[2]) / (r[1] + r[3]) for r in rows)
        rates = [recipe.batch_size / value for value in (plain_step, step, plain_all, all_)]
        cells = [f"`{name}`, {recipe.input.size}, {recipe.batch_size}", *(f"{rate:.2f}" for rate in rates)]
        print(f"| {' | '.join([*cells[:3], f'{ratio:.2f}', *cells[3:], f'{whole:.2f}'])} |", flush=True)


if __name__ == "__main__":
    main()
