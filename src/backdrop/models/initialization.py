"""Initial weights as torch 0.2 drew them, for faithful copies of networks of 2017."""

import math

from torch import nn


def init_like_torch_0_2(network: nn.Module) -> None:
    """Reinitializes a network's layers, in place, where torch has changed since; uses torch's random generator.

    Transposed convolutions: weights and biases in ±1 / sqrt(C_in k²), where today's bound has C_out. Batch norm:
    weights in [0, 1), where today's are 1 (pytorch#12259), except in `network.encoder`: torchvision set 1 itself.
    The bound of convolutions is unchanged.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            bound = 1 / math.sqrt(module.in_channels * math.prod(module.kernel_size))
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d) and not name.startswith("encoder."):
            nn.init.uniform_(module.weight)
