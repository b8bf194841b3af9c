"""One optimiser step. Imports nothing but torch and the networks and losses, so that it runs on any GPU box."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backdrop.losses import Loss


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) float, targets (B, 1, H, W) in 0..1, and what each image weighs (B,); None if all alike."""

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def weight(self) -> float:
        """Of all its images."""
        return float(len(self.images)) if self.weights is None else float(self.weights.sum())


def make_optimiser(network: nn.Module, name: str, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """The optimiser by its name in a recipe; its rate is set at each epoch."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
    }
    options: dict[str, Any] = {"momentum": momentum} if name == "sgd" else {}
    return kinds[name](network.parameters(), lr=0.0, weight_decay=weight_decay, **options)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def train_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_function: Loss,
    batches: Sequence[Batch],
    clip_norm: float | None,
    add_up: bool = False,
) -> Tensor:
    """Forward and backward for each batch, then one step on the gradient of all their images together.

    Args:
        network: in training mode.
        optimiser: its rate already set.
        loss_function: of logits, targets and weights.
        batches: what fits the memory only one after another; the last of an epoch may be fewer than the others.
        clip_norm: largest L2 norm of the gradient, or None.
        add_up: the batches' own means are added up, not averaged (the winners' accumulation).

    Returns:
        The mean loss over the images, detached.
    """
    optimiser.zero_grad(set_to_none=True)
    weights = [batch.weight() for batch in batches]
    total = torch.zeros((), device=batches[0].images.device)
    for batch, weight in zip(batches, weights, strict=True):
        loss = loss_function(network(batch.images), batch.targets, batch.weights)
        share = weight / sum(weights)
        (loss if add_up else loss * share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += loss.detach() * share
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimiser.step()
    return total


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
