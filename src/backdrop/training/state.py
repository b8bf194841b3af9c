"""A training run between two steps: what it knows, what of it is kept, and how it is taken up again."""

import copy
import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from backdrop.common.devices import device
from backdrop.common.progress import log
from backdrop.config import Recipe
from backdrop.config.optimizer import Optimizer
from backdrop.training.checkpoint import Checkpoint, Progress, Weights, to_host
from backdrop.training.compute import device_name, precision_of
from backdrop.training.distributed import Distributed
from backdrop.training.lr_schedules import begun
from backdrop.training.step import make_optimizer


@dataclass
class State:
    """A training run between two steps.

    `model` is the network as it trains: the same, or wrapped so that processes share their gradients. `pending` are
    the losses of the last steps, still on the device; they join `progress.losses` when `settle` is called.
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
        """Takes the losses from the device; waits for its last step."""
        if self.pending:
            self.progress.losses += self.distributed.mean(torch.stack(self.pending)).tolist()
            self.pending.clear()

    def tick(self) -> None:
        """Counts the time since the last call as training's."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now

    def checkpoint(self) -> Checkpoint:
        """A copy of what must be kept to go on from here."""
        self.tick()
        average = to_host(self.average.state_dict()) if self.average else {}
        progress = copy.deepcopy(self.progress)
        weights, optimizer = to_host(self.network.state_dict()), to_host(self.optimizer.state_dict())
        return Checkpoint(progress, weights, average, list(self.selected), optimizer)

    def candidate(self) -> nn.Module:
        """What is judged: the running mean if there is one."""
        found = self.average or self.network
        self.distributed.sync(found)
        return found.eval()

    def end_epoch(self, lr: float, dice: float, cycle: int, most: int) -> None:
        """Adds the epoch's row, and keeps the candidate if it's its cycle's best so far, and only `most` cycles.

        Args:
            lr: the epoch's learning rate.
            dice: the candidate's.
            cycle: which cycle the epoch is in.
            most: how many cycles are kept, the last ones.
        """
        self.tick()
        progress = self.progress
        self._select(dice, progress.epoch, cycle, most)
        seen = [loss for loss in progress.losses if not math.isnan(loss)]
        loss = math.fsum(seen) / len(seen) if seen else None
        now, seconds = time.time_ns() // 1_000_000, round(progress.epoch_seconds, 3)
        row = {"epoch": progress.epoch, "lr": lr, "loss": loss, "dice": dice, "seconds": seconds, "time_ms": now}
        progress.history.append(row)
        progress.epoch += 1
        progress.losses, progress.epoch_seconds = [], 0.0

    def _select(self, dice: float, epoch: int, cycle: int, most: int) -> None:
        rows = self.progress.selected
        if not rows or rows[-1]["cycle"] != cycle:
            rows.append({"cycle": cycle, "epoch": epoch, "dice": -1.0})
            self.selected.append({})
        if dice > rows[-1]["dice"]:
            rows[-1] = {"cycle": cycle, "epoch": epoch, "dice": dice}
            self.selected[-1] = to_host((self.average or self.network).state_dict())
        del rows[:-most], self.selected[:-most]


def begin(recipe: Recipe, saved: Checkpoint | None, start: nn.Module, key: str, distributed: Distributed) -> State:
    """A new run, or one taken up at its checkpoint.

    Args:
        recipe: what is trained.
        saved: the checkpoint, if there is one.
        start: the network with its first weights.
        key: the member's content key.
        distributed: the processes that train it.
    """
    network = start.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads omit it
    average = copy.deepcopy(network) if recipe.ema else None
    here = Progress(
        key,
        threads=saved.progress.threads if saved else torch.get_num_threads(),
        processes=distributed.size,
        device=device_name(device()),
        precision=precision_of(recipe.compute.precision, device()),
    )
    progress, selected = here, []
    optimizer = new_optimizer(network, recipe, 0)
    if saved:
        progress, selected = _go_on(saved.progress, here), saved.selected
        network.load_state_dict(saved.weights)
        if average:
            average.load_state_dict(saved.average)
        inside = progress.epoch if progress.losses else max(0, progress.epoch - 1)
        optimizer = new_optimizer(network, recipe, inside)
        optimizer.load_state_dict(saved.optimizer)
        _lay_out(optimizer)
    if recipe.compute.compile:
        network.compile()
    return State(
        network,
        distributed.wrap(network, recipe.compute.sync_batch_norm),
        average,
        optimizer,
        progress,
        selected,
        distributed,
    )


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Moments in memory as their parameters are: kernels go through both side by side."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def new_optimizer(network: nn.Module, recipe: Recipe, epoch: int) -> torch.optim.Optimizer:
    """The optimizer of an epoch, with nothing in its memory."""
    chosen = settings(recipe, epoch)
    return make_optimizer(network, chosen.kind, chosen.weight_decay, chosen.momentum)


def settings(recipe: Recipe, epoch: int) -> Optimizer:
    """Those of the latest phase that names an optimizer, else the recipe's own."""
    phases = begun(recipe.schedule, recipe.epochs, epoch)
    return next((phase.optimizer for phase in phases if phase.optimizer), recipe.optimizer)


def _go_on(before: Progress, here: Progress) -> Progress:
    changed = [name for name in ("processes", "device", "precision") if getattr(before, name) != getattr(here, name)]
    log(f"Resuming in epoch {before.epoch + 1}, after {before.step} steps")
    for name in changed:
        was, now = getattr(before, name), getattr(here, name)
        log(f"It began with {name} {was}, now it's {now}: the weights will differ in their last bits")
    resumed = [*before.resumed_at, before.step]
    return replace(before, processes=here.processes, device=here.device, precision=here.precision, resumed_at=resumed)
