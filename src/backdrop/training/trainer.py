"""The training loop. All randomness derives from (seed, epoch, sample), so the state is small and explicit."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from backdrop.common.devices import device
from backdrop.common.errors import ConfigError, StorageError, TrainingError
from backdrop.common.outputs import Claim
from backdrop.common.progress import log, working
from backdrop.config import Recipe
from backdrop.config.loss import BceLog
from backdrop.config.recipe import Checkpoints
from backdrop.inference.member import METRICS
from backdrop.models import build
from backdrop.models.initialization import init_like_torch_0_2
from backdrop.training.checkpoint_store import CheckpointStore, Writer
from backdrop.training.compute import computing
from backdrop.training.distributed import ALONE, Distributed
from backdrop.training.losses import Loss, make_loss
from backdrop.training.lr_schedules import cycle_ends, learning_rate, locate
from backdrop.training.reporting import EpochReporter
from backdrop.training.samples import Samples
from backdrop.training.state import State, begin, new_optimizer, settings
from backdrop.training.step import Batch, set_lr, train_step, update_average

Judge = Callable[[nn.Module], float]
Watch = Callable[[Sequence[Mapping[str, Any]]], None]
Look = Callable[[nn.Module, int], None]
# Losses are checked for NaN at least every 64 steps: checking each would make the GPU wait.
CHECK_EVERY = 64
# Several processes compare the first one's clock every 8 steps: each time they wait for each other.
CLOCK_EVERY = 8


class Trainer:
    """One member's training, from its newest checkpoint if it has one.

    Args:
        recipe: what to train.
        samples: what to train on.
        judge: returns the out-of-fold Dice of a network in evaluation mode.
        claim: writes `metrics.jsonl`; None if another process does.
        store: the checkpoints.
        distributed: the processes that train together.
        watch: called with the rows of all epochs so far, when training starts and after each epoch.
        look: called after each epoch with the network that was validated and the epoch, from 0.

    Raises:
        ConfigError: if the loss needs the full batch in one process.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Samples,
        judge: Judge,
        claim: Claim | None,
        store: CheckpointStore,
        distributed: Distributed = ALONE,
        watch: Watch | None = None,
        look: Look | None = None,
    ) -> None:
        self.recipe, self.samples, self.judge = recipe, samples, judge
        self.claim, self.store, self.distributed, self.watch, self.look = claim, store, distributed, watch, look
        if distributed.size > 1 and isinstance(recipe.loss, BceLog) and recipe.loss.over == "batch":
            raise ConfigError("Several processes can't share a batch with loss.over=batch", "Set loss.over=image")
        self.loss: Loss = make_loss(**recipe.loss_options())

    def fit(self, key: str, start: nn.Module) -> State:
        """Trains to the last epoch.

        Args:
            key: the member's content key.
            start: the network with its initial weights.

        Returns:
            The state after the last epoch; `selected` are the weights of the best epoch, or of the best of each cycle.

        Raises:
            MemberError: if all checkpoints are damaged.
            TrainingError: if a loss is NaN or infinite.
            StorageError: if checkpoints in S3 can't be listed.
        """
        saved = self.store.read()
        self.distributed.barrier()  # no process writes before all have read
        recipe = self.recipe
        state = begin(recipe, saved, start, key, self.distributed)
        first, done = state.progress.epoch, len(state.progress.losses)
        with (
            computing(state.progress.precision, recipe.compute.deterministic, state.progress.threads),
            Writer(self.store) as writer,
            working(f"training {recipe.name}"),
        ):
            saver = Saver(writer, recipe.checkpoint, self.distributed, state.progress.step)
            self._write_metrics(state)
            batches = self.samples.stream(first, done, device())
            reporter = EpochReporter(recipe.epochs, self.distributed.is_main)
            for epoch in range(first, recipe.epochs):
                with reporter.epoch(epoch, whole=not state.progress.losses):
                    self._epoch(state, batches, saver, reporter)
                reporter.finished(state.progress.history[-1])
            if first < recipe.epochs:
                saver.save(state, wait=True)
        return state

    def _epoch(self, state: State, batches: Iterator[list[Batch]], saver: "Saver", reporter: EpochReporter) -> None:
        epoch, recipe = state.progress.epoch, self.recipe
        done = len(state.progress.losses)
        if done == 0 and _resets_optimizer(recipe, epoch):
            state.optimizer = new_optimizer(state.network, recipe, epoch)
        lr = learning_rate(recipe.schedule, recipe.epochs, epoch, [row["dice"] for row in state.progress.history])
        set_lr(state.optimizer, lr)
        state.network.train()
        steps = self.samples.steps(epoch)
        images = sum(len(batch) for step in steps[done:] for batch in step)
        with reporter.steps(len(steps), done, images) as advance:
            for index in range(done, len(steps)):
                state.pending.append(take_step(recipe, self.loss, state, next(batches)))
                if recipe.replay_every and (index + 1) % recipe.replay_every == 0:
                    self._replay(state, epoch, index)
                advance()
                if (is_due := saver.is_due(state.progress.step)) or len(state.pending) >= CHECK_EVERY:
                    self._settle(state)
                if is_due:
                    saver.save(state)
            self._settle(state)
        candidate = state.candidate()
        dice = self.judge(candidate)
        if self.look:
            self.look(candidate, epoch)
        state.end_epoch(lr, dice, _cycle(recipe, epoch), recipe.snapshots or 1)
        self._write_metrics(state)
        if saver.is_due(state.progress.step):
            saver.save(state)

    def _replay(self, state: State, epoch: int, index: int) -> None:
        """Trains again on the batch with the highest recent loss; the loss of that step isn't recorded."""
        self._settle(state)
        steps = range(index + 1 - (self.recipe.replay_every or 1), index + 1)
        losses = {step: state.progress.losses[step] for step in steps}
        numbers = {step: loss for step, loss in losses.items() if not math.isnan(loss)}
        if numbers:
            hardest = self.samples.steps(epoch)[max(numbers, key=lambda step: numbers[step])]
            take_step(self.recipe, self.loss, state, self.samples.batches(epoch, hardest, device()))

    def _settle(self, state: State) -> None:
        """Moves the losses to the host and checks them.

        Raises:
            TrainingError: if one is NaN or infinite, unless `on_nan` is `skip`.
        """
        before = len(state.progress.losses)
        state.settle()
        steps = self.samples.steps(state.progress.epoch)
        for index, loss in enumerate(state.progress.losses[before:], start=before):
            if not math.isfinite(loss):
                value = "NaN" if math.isnan(loss) else "infinite"
                position = f"epoch {state.progress.epoch + 1}/{self.recipe.epochs}, step {index + 1}"
                position += f": {', '.join(self.samples.names(steps[index]))}"
                if self.recipe.on_nan == "stop":
                    remedy = "Check these files, lower the learning rates, or set on_nan=skip"
                    raise TrainingError(f"Loss is {value} at {position}", remedy)
                log(f"Skipped a step because its loss is {value}: {position}")

    def _write_metrics(self, state: State) -> None:
        """Writes all rows from the state each time, so that a resumed run leaves no gaps or duplicates."""
        if not self.claim:
            return
        try:
            self.claim.write({METRICS: dump_metrics(state)})
        except StorageError as error:  # the disk is full, say; the next epoch, or the end, writes all rows again
            log(f"The metrics were not written; training continues: {error}")
        if self.watch:
            self.watch(state.progress.history)


def dump_metrics(state: State) -> bytes:
    """The epochs so far as `metrics.jsonl` has them."""
    return "".join(json.dumps(row) + "\n" for row in state.progress.history).encode()


def take_step(recipe: Recipe, loss: Loss, state: State, batches: Sequence[Batch]) -> torch.Tensor:
    """One optimizer step, then the running mean of the weights; returns the mean loss, on the device."""
    progress = state.progress
    # A layer's randomness depends on seed and step only, so no generator state is saved.
    torch.manual_seed((recipe.seed * 2**32 + progress.step) % 2**63)
    loss_value = train_step(
        state.model,
        state.optimizer,
        loss,
        batches,
        settings(recipe, progress.epoch).clip_norm,
        recipe.legacy.sum_gradients,
        progress.precision == "bf16",
        recipe.on_nan == "skip",
    )
    progress.step += 1
    if state.average and recipe.ema:
        update_average(state.average, state.network, recipe.ema, progress.step)
    return loss_value


class Saver:
    """Submits checkpoints to the writer when they are due.

    Args:
        writer: writes the checkpoints.
        every: when a checkpoint is due, in seconds and in steps.
        distributed: the processes that train together; the first one writes.
        step: the step at which training starts.
    """

    def __init__(self, writer: Writer, every: Checkpoints, distributed: Distributed, step: int) -> None:
        self._writer, self._every, self._distributed = writer, every, distributed
        self._step, self._saved_at = step, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; the same in all processes."""
        if self._every.every_steps and step - self._step >= self._every.every_steps:
            return True
        late = time.monotonic() - self._saved_at >= self._every.every_s
        if self._distributed.size == 1:
            return late
        return step % CLOCK_EVERY == 0 and self._distributed.broadcast(late)

    def save(self, state: State, wait: bool = False) -> None:
        """Submits a checkpoint to the writer; if the writer is busy, skips it or waits.

        Args:
            state: the state of training, settled.
            wait: whether to wait for a busy writer.
        """
        if self._distributed.is_main and (wait or not self._writer.busy):
            self._writer.submit(state.checkpoint())
        self._step, self._saved_at = state.progress.step, time.monotonic()


def first_network(recipe: Recipe) -> nn.Module:
    """The recipe's network, with weights initialized from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(**recipe.network_options())
        if recipe.legacy.initialization == "torch_0_2":
            init_like_torch_0_2(network)
        return network


def _cycle(recipe: Recipe, epoch: int) -> int:
    """The index of an epoch's cycle if the recipe keeps snapshots, else 0."""
    return sum(end < epoch for end in cycle_ends(recipe.schedule, recipe.epochs)) if recipe.snapshots else 0


def _resets_optimizer(recipe: Recipe, epoch: int) -> bool:
    index, start, _ = locate(recipe.schedule, recipe.epochs, epoch)
    changes = recipe.schedule[index].optimizer is not None
    return (changes and epoch == start) or recipe.legacy.reset_each_epoch
