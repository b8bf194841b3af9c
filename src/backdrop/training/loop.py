"""The training loop. All that is random comes from (seed, epoch, sample), so the state is small and explicit."""

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from backdrop import storage
from backdrop.losses import make_loss
from backdrop.models import build
from backdrop.models.initialise import as_2017
from backdrop.prediction import device
from backdrop.progress import progress, say
from backdrop.recipe import Recipe
from backdrop.recipe.training import Optimiser
from backdrop.schedules import begun, cycle_ends, locate, rate
from backdrop.training.checkpoint import Checkpoint, Progress, Weights, read_checkpoint, write_checkpoint
from backdrop.training.member import CHECKPOINTS, METRICS
from backdrop.training.samples import Samples
from backdrop.training.step import Batch, follow, make_optimiser, set_rate, train_step

Judge = Callable[[nn.Module], float]


@dataclass
class State:
    """A training run between two epochs."""

    network: nn.Module
    average: nn.Module | None
    optimiser: torch.optim.Optimizer
    progress: Progress
    selected: list[Weights]

    def checkpoint(self) -> Checkpoint:
        """What must be kept to go on from here."""
        average = self.average.state_dict() if self.average else {}
        return Checkpoint(self.progress, self.network.state_dict(), average, self.selected, self.optimiser.state_dict())

    def candidate(self) -> nn.Module:
        """What is judged: the running mean if there is one."""
        return (self.average or self.network).eval()

    def select(self, dice: float, epoch: int, cycle: int, most: int) -> None:
        """Keeps the candidate's weights if it's the best of its cycle so far, and only the last `most` cycles."""
        rows = self.progress.selected
        if not rows or rows[-1]["cycle"] != cycle:
            rows.append({"cycle": cycle, "epoch": epoch, "dice": -1.0})
            self.selected.append({})
        if dice > rows[-1]["dice"]:
            rows[-1] = {"cycle": cycle, "epoch": epoch, "dice": dice}
            self.selected[-1] = copy.deepcopy(self.candidate().state_dict())
        del rows[:-most], self.selected[:-most]


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
        The state after the last epoch; `selected` are the weights of the best epoch, or of each kept cycle's.

    Raises:
        MemberError: if all checkpoints are damaged.
        StorageError: if the folder can't be written.
    """
    state = _resume(recipe, folder, key, start)
    _write_metrics(folder, state.progress)
    with progress(f"{recipe.name} epoch", recipe.epochs - state.progress.epoch) as advance:
        for epoch in range(state.progress.epoch, recipe.epochs):
            _epoch(state, recipe, samples, judge, epoch)
            _write_metrics(folder, state.progress)
            write_checkpoint(folder / CHECKPOINTS, state.checkpoint())
            row = state.progress.history[-1]
            advance(f"loss {row['loss']:.4f} dice {row['dice']:.4f}")
    return state


def first_network(recipe: Recipe) -> nn.Module:
    """The recipe's network with the random weights of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(**recipe.network.model_dump())
        if recipe.initialisation == "2017":
            as_2017(network)
        return network


def _resume(recipe: Recipe, folder: Path, key: str, start: nn.Module) -> State:
    network = start.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads omit it
    average = copy.deepcopy(network) if recipe.ema else None
    saved = read_checkpoint(folder / CHECKPOINTS)
    if saved is None:
        return State(network, average, _optimiser(network, _settings(recipe, 0)), Progress(key), [])
    network.load_state_dict(saved.weights)
    if average:
        average.load_state_dict(saved.average)
    optimiser = _optimiser(network, _settings(recipe, max(0, saved.progress.epoch - 1)))
    optimiser.load_state_dict(saved.optimiser)
    saved.progress.resumed_at.append(saved.progress.step)
    say(f"Going on at epoch {saved.progress.epoch}, step {saved.progress.step}")
    return State(network, average, optimiser, saved.progress, saved.selected)


def _epoch(state: State, recipe: Recipe, samples: Samples, judge: Judge, epoch: int) -> None:
    started = time.monotonic()
    if _begins_anew(recipe, epoch):
        state.optimiser = _optimiser(state.network, _settings(recipe, epoch))
    dices = [row["dice"] for row in state.progress.history]
    now_rate = rate(recipe.schedule, recipe.epochs, epoch, dices)
    set_rate(state.optimiser, now_rate)
    loss = _train_epoch(state, recipe, samples, epoch)
    dice = judge(state.candidate())
    state.select(dice, epoch, _cycle(recipe, epoch), recipe.snapshots or 1)
    seconds = time.monotonic() - started
    state.progress.seconds += seconds
    state.progress.epoch = epoch + 1
    now = time.time_ns() // 1_000_000
    row = {"epoch": epoch, "rate": now_rate, "loss": loss, "dice": dice, "seconds": round(seconds, 3), "time_ms": now}
    state.progress.history.append(row)


def _train_epoch(state: State, recipe: Recipe, samples: Samples, epoch: int) -> float:
    """The epoch's mean loss; what is replayed isn't in it."""
    state.network.train()
    loss_function = make_loss(**recipe.loss.model_dump())
    clip_norm, add_up = _settings(recipe, epoch).clip_norm, recipe.accumulate.reduce == "sum"

    def step(batches: list[Batch]) -> torch.Tensor:
        loss = train_step(state.network, state.optimiser, loss_function, batches, clip_norm, add_up)
        state.progress.step += 1
        if state.average and recipe.ema:
            follow(state.average, state.network, recipe.ema, state.progress.step)
        return loss

    losses: list[torch.Tensor] = []
    hardest: tuple[float, list[Batch]] | None = None
    for batches in _grouped(samples.batches(epoch, device()), recipe.accumulate.batches):
        losses.append(step(batches))
        if recipe.replay_every is None:
            continue
        if hardest is None or float(losses[-1]) > hardest[0]:
            hardest = float(losses[-1]), batches
        if len(losses) % recipe.replay_every == 0:
            step(hardest[1])
            hardest = None
    return float(torch.stack(losses).mean())


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """So many at a time; the last of an epoch may be fewer."""
    left = iter(batches)
    while group := list(islice(left, size)):
        yield group


def _cycle(recipe: Recipe, epoch: int) -> int:
    """Which cycle of the schedule an epoch is in, if each keeps its best; else there is one."""
    return sum(end < epoch for end in cycle_ends(recipe.schedule, recipe.epochs)) if recipe.snapshots else 0


def _begins_anew(recipe: Recipe, epoch: int) -> bool:
    index, start, _ = locate(recipe.schedule, recipe.epochs, epoch)
    named = recipe.schedule[index].optimiser is not None
    return (named and epoch == start) or _settings(recipe, epoch).forgetful


def _settings(recipe: Recipe, epoch: int) -> Optimiser:
    """Those of the latest phase that names an optimiser, else the recipe's own."""
    phases = begun(recipe.schedule, recipe.epochs, epoch)
    return next((phase.optimiser for phase in phases if phase.optimiser), recipe.optimiser)


def _optimiser(network: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    return make_optimiser(network, settings.name, settings.weight_decay, settings.momentum)


def _write_metrics(folder: Path, progress: Progress) -> None:
    """Written anew from the state each time, so that a resumed run leaves neither gap nor duplicate."""
    lines = [json.dumps(row) + "\n" for row in progress.history]
    storage.write_bytes(folder / METRICS, "".join(lines).encode())
