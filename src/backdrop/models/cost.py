"""The size and cost of a network: parameters, and multiply-accumulates of a forward pass."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of convolutions, transposed ones and linear layers for one image, without computing any.

    A transposed convolution counts by its input's pixels, a convolution by its output's. What passes through the
    network is a batch of no image: on torch's meta device, convolutions would import its compiler, which takes seconds.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        weight: Any = module.weight
        pixels = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        sides = pixels.shape[1:-1] if isinstance(module, nn.Linear) else pixels.shape[-2:]
        total += weight.numel() * sides.numel()

    network = copy.deepcopy(network).eval()
    state = network.state_dict()
    weights = {name: torch.empty(value.shape, dtype=value.dtype, device="cpu") for name, value in state.items()}
    network.load_state_dict(weights, assign=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.register_forward_hook(count)
    try:
        network(torch.empty(0, 3, height, width, device="cpu"))
    except RuntimeError:  # attention can't reshape a batch of no image
        total = 0
        network.to("meta")(torch.empty(1, 3, height, width, device="meta"))
    return total
