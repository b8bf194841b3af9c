"""One optimizer step. Imports nothing but torch and the networks and losses, so that it runs on any GPU box."""

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
    """Images (B, 3, H, W) float, targets (B, 1, H, W) in 0..1, and what each image weighs (B,); None if all alike.

    Where several processes share a batch, this is one's part of it, and `whole` is what all of it weighs.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None
    whole: float | None = None
    processes: int = 1

    def weight(self) -> float:
        """Of all images of the whole batch."""
        return self._own() if self.whole is None else self.whole

    def scale(self) -> float:
        """Times this, and averaged over the processes, their losses are the whole batch's."""
        return 1.0 if self.whole is None else self._own() / self.whole * self.processes

    def tensors(self) -> list[Tensor]:
        """All that is on the device."""
        return [tensor for tensor in (self.images, self.targets, self.weights) if tensor is not None]

    def _own(self) -> float:
        return float(len(self.images)) if self.weights is None else float(self.weights.sum())


def make_optimizer(network: nn.Module, kind: str, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """The optimizer by its `kind` in a recipe, in one kernel where a GPU has one; each epoch sets its learning rate."""
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
    """Forward and backward for each batch, then one step on the gradient of all their images together.

    Args:
        network: in training mode; its gradients are averaged over processes where it's a DistributedDataParallel.
        optimizer: its learning rate already set.
        loss_function: of logits, targets and weights.
        batches: what fits the memory only one after another; the last of an epoch may be fewer than the others.
        clip_norm: largest L2 norm of the gradient, or None.
        add_up: the batches' own means are added up, not averaged (the winners' accumulation).
        bf16: the network computes in bfloat16 where autocast says that it may; losses are float32 all the same.
        skip_nan: a gradient that is no number changes nothing, batch norm's statistics among it. Waits for the device.

    Returns:
        The mean loss over the images, detached; of several processes, their mean is it.
    """
    optimizer.zero_grad(set_to_none=True)
    before = [buffer.clone() for buffer in network.buffers()] if skip_nan else []
    weights = [batch.weight() for batch in batches]
    where = batches[0].images.device
    total = torch.zeros((), device=where)
    for index, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        with _together(network, index == len(batches) - 1):
            with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
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


def _together(network: nn.Module, last: bool) -> Any:
    """Where processes average gradients, they do it once a step, with its last batch."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves a running mean of weights (batch norm's statistics among them) towards the network's.

    Early steps move it faster, so that it isn't led by random first weights.

    Args:
        average: the running mean, changed in place.
        network: of the same kind, just stepped.
        decay: how much of the mean stays, 0..1.
        step: how many steps there have been.
    """
    stays = min(decay, (1 + step) / (10 + step))
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - stays)
        else:
            slow.copy_(fast)
