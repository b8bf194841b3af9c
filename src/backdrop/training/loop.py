"""The training loop. All that is random comes from (seed, epoch, sample), so the state is small and explicit."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from backdrop import storage
from backdrop.losses import LOSSES
from backdrop.models import build
from backdrop.prediction import device, normalise
from backdrop.progress import progress, say
from backdrop.recipe import Recipe
from backdrop.schedules import learning_rates
from backdrop.training.checkpoint import Checkpoint, Progress, Weights, read_checkpoint, write_checkpoint
from backdrop.training.member import CHECKPOINTS, METRICS
from backdrop.training.samples import Samples
from backdrop.training.step import follow, make_optimiser, set_rate, train_step

Judge = Callable[[nn.Module], float]


@dataclass
class State:
    """A training run between two epochs."""

    network: nn.Module
    average: nn.Module | None
    optimiser: torch.optim.Optimizer
    progress: Progress
    selected: Weights

    def checkpoint(self) -> Checkpoint:
        """What must be kept to go on from here."""
        average = self.average.state_dict() if self.average else {}
        return Checkpoint(self.progress, self.network.state_dict(), average, self.selected, self.optimiser.state_dict())

    def candidate(self) -> nn.Module:
        """What is judged: the running mean if there is one."""
        return (self.average or self.network).eval()


def fit(recipe: Recipe, samples: Samples, judge: Judge, folder: Path, key: str, start: nn.Module) -> State:
    """Trains a member to its last epoch, from its newest checkpoint if it has one.

    Args:
        recipe: what to train.
        samples: what to train on.
        judge: gives the out-of-fold Dice of a network in evaluation mode.
        folder: the member folder; gets `metrics.jsonl` and checkpoints.
        key: the member's content key.
        start: the network with its first weights.

    Returns:
        The state after the last epoch; `selected` are the weights of the epoch with the best Dice.

    Raises:
        MemberError: if all checkpoints are damaged.
        StorageError: if the folder can't be written.
    """
    state = _resume(recipe, folder, key, start)
    _write_metrics(folder, state.progress)
    rates = learning_rates(recipe.schedule, recipe.epochs)
    with progress(f"{recipe.name} epoch", recipe.epochs - state.progress.epoch) as advance:
        for epoch in range(state.progress.epoch, recipe.epochs):
            _epoch(state, recipe, samples, judge, epoch, rates[epoch])
            _write_metrics(folder, state.progress)
            write_checkpoint(folder / CHECKPOINTS, state.checkpoint())
            row = state.progress.history[-1]
            advance(f"loss {row['loss']:.4f} dice {row['dice']:.4f}")
    return state


def first_network(recipe: Recipe) -> nn.Module:
    """The recipe's network with the random weights of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(**recipe.network.model_dump())


def _resume(recipe: Recipe, folder: Path, key: str, start: nn.Module) -> State:
    network = start.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads omit it
    settings = recipe.optimiser
    optimiser = make_optimiser(network, settings.name, settings.weight_decay, settings.momentum)
    average = copy.deepcopy(network) if recipe.ema else None
    saved = read_checkpoint(folder / CHECKPOINTS)
    if saved is None:
        return State(network, average, optimiser, Progress(key), {})
    network.load_state_dict(saved.weights)
    if average:
        average.load_state_dict(saved.average)
    optimiser.load_state_dict(saved.optimiser)
    saved.progress.resumed_at.append(saved.progress.step)
    say(f"Going on at epoch {saved.progress.epoch}, step {saved.progress.step}")
    return State(network, average, optimiser, saved.progress, saved.selected)


def _epoch(state: State, recipe: Recipe, samples: Samples, judge: Judge, epoch: int, rate: float) -> None:
    started = time.monotonic()
    set_rate(state.optimiser, rate)
    loss = _train_epoch(state, recipe, samples, epoch)
    candidate = state.candidate()
    dice = judge(candidate)
    if dice > state.progress.dice:
        state.progress.dice, state.progress.selected_epoch = dice, epoch
        state.selected = copy.deepcopy(candidate.state_dict())
    seconds = time.monotonic() - started
    state.progress.seconds += seconds
    state.progress.epoch = epoch + 1
    now = time.time_ns() // 1_000_000
    row = {"epoch": epoch, "rate": rate, "loss": loss, "dice": dice, "seconds": round(seconds, 3), "time_ms": now}
    state.progress.history.append(row)


def _train_epoch(state: State, recipe: Recipe, samples: Samples, epoch: int) -> float:
    """The epoch's mean loss."""
    state.network.train()
    losses: list[torch.Tensor] = []
    loss_function, clip_norm = LOSSES[recipe.loss.name], recipe.optimiser.clip_norm
    for images, targets in samples.batches(epoch, device()):
        batch = normalise(images, recipe.input)
        losses.append(train_step(state.network, state.optimiser, loss_function, batch, targets, clip_norm))
        state.progress.step += 1
        if state.average and recipe.ema:
            follow(state.average, state.network, recipe.ema, state.progress.step)
    return float(torch.stack(losses).mean())


def _write_metrics(folder: Path, progress: Progress) -> None:
    """Written anew from the state each time, so that a resumed run leaves neither gap nor duplicate."""
    lines = [json.dumps(row) + "\n" for row in progress.history]
    storage.write_bytes(folder / METRICS, "".join(lines).encode())
