"""Measures the cost of checkpoints in a training of `linknet34`: stall, size, time to save and to restore.

    .venv/bin/python benchmarks/checkpoint.py

Steps with and without a checkpoint being written take turns. The stall is what a checkpoint costs the training's own
thread: its copy, and by how much steps are slower while it's written; as a share of the minute between two of them.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from backdrop.common.devices import device
from backdrop.config import find_recipe
from backdrop.training.checkpoint_store import CheckpointStore, Writer
from backdrop.training.distributed import ALONE
from backdrop.training.losses import make_loss
from backdrop.training.state import begin
from backdrop.training.step import Batch, set_lr
from backdrop.training.trainer import first_network, take_step

SETTINGS = ("input.size=256x256", "input.fit=stretch", "batch_size=2", "pretrained=null")
ROUNDS = 6
STEPS = 4


def main() -> None:
    """Prints a line per figure."""
    recipe = find_recipe("linknet34", SETTINGS)
    state, loss = begin(recipe, None, first_network(recipe), "", ALONE), make_loss(**recipe.loss_options())
    set_lr(state.optimizer, 1e-6)
    state.network.train()
    size = recipe.batch_size, 1, recipe.input.height, recipe.input.width
    images = torch.rand(size[0], 3, *size[2:], device=device())
    batch = Batch(images, (torch.rand(size, device=device()) > 0.5).float())

    def step() -> float:
        start = time.perf_counter()
        take_step(recipe, loss, state, [batch]).item()
        return time.perf_counter() - start

    for _ in range(3):
        step()
    state.end_epoch(1e-6, 0.5, 0, 1)  # adds the best epoch's weights, as in most checkpoints
    stalls, copies, saves, steps = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, Writer(store := CheckpointStore(Path(folder))) as writer:
        for _ in range(ROUNDS):
            plain = median(step() for _ in range(STEPS))
            start = time.perf_counter()
            asked = state.progress.step
            writer.submit(state.checkpoint())
            copies.append(time.perf_counter() - start)
            slower = 0.0
            while writer.busy:
                slower += step() - plain
            saves.append(time.perf_counter() - start)
            stalls.append(copies[-1] + max(0.0, slower))
            steps.append(plain)
        newest = max(Path(folder).glob("[0-9]*"))
        size_mb = sum(path.stat().st_size for path in newest.iterdir()) / 1e6
        start = time.perf_counter()
        restored = store.read()
        restore = time.perf_counter() - start
        assert restored is not None
        assert restored.progress.step == asked
    every = recipe.checkpoint.every_s
    print(
        f"{size_mb:.0f} MB; step {median(steps):.2f} s, copy {median(copies):.2f} s, save {median(saves):.2f} s,",
        end=" ",
    )
    print(f"restore {restore:.2f} s (on this machine; only ratios are comparable)")
    print(f"stall: {median(stalls) / every:.2%} of the time, with a checkpoint every {every:g} s")


if __name__ == "__main__":
    main()
