"""One optimizer step. Imports only torch and the losses, so that it runs on any machine with a GPU."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backdrop.training.losses import Loss


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) float, targets (B, 1, H, W) in 0..1, and weights (B,); None if all images weigh the same.

    If several processes share a batch, this is one process's part, and `total_weight` is the weight of the full batch.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None
    total_weight: float | None = None
    processes: int = 1

    def weight(self) -> float:
        """The total weight of the full batch."""
        return self._own_weight() if self.total_weight is None else self.total_weight

    def scale(self) -> float:
        """The factor that makes the mean of the processes' losses the loss of the full batch."""
        return 1.0 if self.total_weight is None else self._own_weight() / self.total_weight * self.processes

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        return [tensor for tensor in (self.images, self.targets, self.weights) if tensor is not None]

    def _own_weight(self) -> float:
        return float(len(self.images)) if self.weights is None else float(self.weights.sum())


def make_optimizer(network: nn.Module, kind: str, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """The optimizer of a recipe's `kind`, fused on a GPU if torch can; its learning rate is set by each epoch."""
    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
    }
    options: dict[str, Any] = {"momentum": momentum} if kind == "sgd" else {}
    if kind != "rmsprop" and next(network.parameters()).is_cuda:
        options["fused"] = True
    return classes[kind](network.parameters(), lr=0.0, weight_decay=weight_decay, **options)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: Loss,
    batches: Sequence[Batch],
    clip_norm: float | None,
    add_up: bool = False,
    bf16: bool = False,
    skip_nan: bool = False,
) -> Tensor:
    """Forward and backward for each batch, then one optimizer step on the accumulated gradient.

    Args:
        network: in training mode; a DistributedDataParallel averages gradients over processes.
        optimizer: its learning rate already set.
        loss_function: of logits, targets and weights.
        batches: the step's batches, processed one after another to save memory.
        clip_norm: maximum L2 norm of the gradient, or None.
        add_up: sum the batches' mean losses instead of averaging them (as the winners accumulated).
        bf16: run the network in bfloat16 autocast; losses stay float32.
        skip_nan: if loss or gradient is NaN or infinite, change nothing, batch norm's statistics included; waits for
            the device.

    Returns:
        The mean loss over the images, detached. With several processes it is the mean of their values; NaN if skipped.
    """
    optimizer.zero_grad(set_to_none=True)
    before = [buffer.clone() for buffer in network.buffers()] if skip_nan else []
    weights = [batch.weight() for batch in batches]
    device = batches[0].images.device
    total = torch.zeros((), device=device)
    for index, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        with _gradient_sync(network, index == len(batches) - 1):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = network(batch.images)
            loss = loss_function(logits, batch.targets, batch.weights) * batch.scale()
            share = weight / sum(weights)
            (loss if add_up else loss * share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += loss.detach() * share
    if clip_norm is not None or skip_nan:
        norm = nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)
        if skip_nan and not (norm + total).isfinite():
            for buffer, old in zip(network.buffers(), before, strict=True):
                buffer.copy_(old)
            return torch.full_like(total, math.nan)
    optimizer.step()
    return total


def _gradient_sync(network: nn.Module, last: bool) -> Any:
    """Lets processes average gradients only once per step, with its last batch."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves a running mean of weights (batch norm's statistics included) towards the network's.

    Early steps move it faster, so that random initial weights don't dominate.

    Args:
        average: the running mean, changed in place.
        network: of the same architecture, after its step.
        decay: share of the mean to keep, 0..1.
        step: number of steps so far.
    """
    kept_share = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([slow for slow, _ in floats], [fast for _, fast in floats], 1 - kept_share)
    for slow, fast in pairs:
        if not slow.is_floating_point():
            slow.copy_(fast)
