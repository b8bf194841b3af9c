"""The state of a training run between two steps: how it starts, becomes a checkpoint, and resumes."""

import copy
import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from backdrop.common.devices import device, precision_of
from backdrop.common.progress import log
from backdrop.common.words import count
from backdrop.config import Recipe
from backdrop.config.optimizer import Optimizer
from backdrop.training.checkpoint import Checkpoint, Progress, Weights, to_host
from backdrop.training.compute import device_name
from backdrop.training.distributed import Distributed
from backdrop.training.lr_schedules import started
from backdrop.training.step import make_optimizer


@dataclass
class State:
    """A training run between two steps.

    `model` is `network`, wrapped if several processes average gradients. `pending` are the losses of the last steps,
    still on the device; `settle` moves them to `progress.losses`.
    """

    network: nn.Module
    model: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    progress: Progress
    selected: list[Weights]
    distributed: Distributed
    pending: list[Tensor] = field(default_factory=list)
    clock: float = field(default_factory=time.monotonic)

    def settle(self) -> None:
        """Moves pending losses to the host; waits for the last step."""
        if self.pending:
            self.progress.losses += self.distributed.mean(torch.stack(self.pending)).tolist()
            self.pending.clear()

    def tick(self) -> None:
        """Adds the time since the last call to the training time."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now

    def checkpoint(self) -> Checkpoint:
        """A copy of everything needed to resume from current."""
        self.tick()
        average = to_host(self.average.state_dict()) if self.average else {}
        progress = copy.deepcopy(self.progress)
        weights, optimizer = to_host(self.network.state_dict()), to_host(self.optimizer.state_dict())
        return Checkpoint(progress, weights, average, list(self.selected), optimizer)

    def candidate(self) -> nn.Module:
        """The network to validate, in evaluation mode: the running mean if there is one."""
        network = self.average or self.network
        self.distributed.sync(network)
        return network.eval()

    def end_epoch(self, lr: float, dice: float, cycle: int, max_cycles: int) -> None:
        """Adds the epoch's row, and keeps the candidate's weights if they are the best of their cycle so far.

        Args:
            lr: the epoch's learning rate.
            dice: the candidate's out-of-fold Dice.
            cycle: index of the epoch's cycle.
            max_cycles: weights of this many latest cycles are kept.
        """
        self.tick()
        progress = self.progress
        self._select(dice, progress.epoch, cycle, max_cycles)
        losses = [loss for loss in progress.losses if not math.isnan(loss)]
        loss = math.fsum(losses) / len(losses) if losses else None
        now, seconds = time.time_ns() // 1_000_000, round(progress.epoch_seconds, 3)
        row = {"epoch": progress.epoch, "lr": lr, "loss": loss, "dice": dice, "seconds": seconds, "time_ms": now}
        progress.history.append(row)
        progress.epoch += 1
        progress.losses, progress.epoch_seconds = [], 0.0

    def _select(self, dice: float, epoch: int, cycle: int, max_cycles: int) -> None:
        rows = self.progress.selected
        if not rows or rows[-1]["cycle"] != cycle:
            rows.append({"cycle": cycle, "epoch": epoch, "dice": -1.0})
            self.selected.append({})
        if dice > rows[-1]["dice"]:
            rows[-1] = {"cycle": cycle, "epoch": epoch, "dice": dice}
            self.selected[-1] = to_host((self.average or self.network).state_dict())
        del rows[:-max_cycles], self.selected[:-max_cycles]


def begin(recipe: Recipe, saved: Checkpoint | None, start: nn.Module, key: str, distributed: Distributed) -> State:
    """A new run, or one that resumes from its checkpoint.

    Args:
        recipe: what to train.
        saved: the checkpoint, if there is one.
        start: the network with its initial weights.
        key: the member's content key.
        distributed: the processes that train together.
    """
    network = start.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads omit it
    average = copy.deepcopy(network) if recipe.ema else None
    current = Progress(
        key,
        threads=saved.progress.threads if saved else torch.get_num_threads(),
        processes=distributed.size,
        device=device_name(device()),
        precision=precision_of(recipe.compute.precision, device()),
    )
    progress, selected = current, []
    optimizer = new_optimizer(network, recipe, 0)
    if saved:
        progress, selected = _resume(saved.progress, current), saved.selected
        network.load_state_dict(saved.weights)
        if average:
            average.load_state_dict(saved.average)
        epoch = progress.epoch if progress.losses else max(0, progress.epoch - 1)
        optimizer = new_optimizer(network, recipe, epoch)
        optimizer.load_state_dict(saved.optimizer)
        _match_layout(optimizer)
    if recipe.compute.compile:
        # By default a second size is compiled for any size, and a run that resumes in it may get other bits.
        network.compile(dynamic=False if any(phase.scale < 1 for phase in recipe.schedule) else None)
    return State(
        network,
        distributed.wrap(network, recipe.compute.sync_batch_norm),
        average,
        optimizer,
        progress,
        selected,
        distributed,
    )


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Gives moments the memory layout of their parameters, so that kernels read both in order."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def new_optimizer(network: nn.Module, recipe: Recipe, epoch: int) -> torch.optim.Optimizer:
    """The optimizer of an epoch, with empty state."""
    chosen = settings(recipe, epoch)
    return make_optimizer(network, chosen.kind, chosen.weight_decay, chosen.momentum)


def settings(recipe: Recipe, epoch: int) -> Optimizer:
    """The optimizer settings of the latest phase that has any, else the recipe's."""
    phases = started(recipe.schedule, recipe.epochs, epoch)
    return next((phase.optimizer for phase in phases if phase.optimizer), recipe.optimizer)


def _resume(before: Progress, current: Progress) -> Progress:
    changed = [name for name in ("processes", "device", "precision") if getattr(before, name) != getattr(current, name)]
    log(f"Resuming in epoch {before.epoch + 1}, after {count(before.step, 'step')}")
    for name in changed:
        was, now = getattr(before, name), getattr(current, name)
        log(f"{name} changed from {was} to {now}: the weights will not be bit-identical to an uninterrupted run's")
    resumed = [*before.resumed_at, before.step]
    updates = {name: getattr(current, name) for name in changed}
    return replace(before, resumed_at=resumed, **updates)
