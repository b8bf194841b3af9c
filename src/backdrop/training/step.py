"""One optimiser step. Imports nothing but torch and the networks and losses, so that it runs on any GPU box."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def make_optimiser(network: nn.Module, name: str, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """The optimiser by its name in a recipe; its rate is set at each epoch."""
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": weight_decay}
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=momentum, **options)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[name](network.parameters(), **options)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def train_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_function: Loss,
    images: Tensor,
    targets: Tensor,
    clip_norm: float | None,
) -> Tensor:
    """Forward, backward, step.

    Args:
        network: in training mode.
        optimiser: its rate already set.
        loss_function: of logits and targets.
        images: (B, 3, H, W) float.
        targets: (B, 1, H, W), 0..1.
        clip_norm: largest L2 norm of the gradient, or None.

    Returns:
        The loss, detached.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = loss_function(network(images), targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimiser.step()
    return loss.detach()


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
