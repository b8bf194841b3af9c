"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch norm and bilinear upsampling."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution that keeps the size, batch norm, ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """U-Net of `depth` halvings with `width` channels at full size, doubled at each halving.

    Args:
        width: channels at full size.
        depth: how often the size is halved; the input's sides must be multiples of 2**depth.
    """

    def __init__(self, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        ends = [3, *channels]
        self.down = nn.ModuleList(_double(low, high) for low, high in pairwise(ends))
        self.up = nn.ModuleList(
            _double(channels[level] + channels[level + 1], channels[level]) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(functional.max_pool2d(skips[-1], 2) if skips else x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            skip = skips.pop()
            x = functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _double(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(channels_in, channels_out), conv_bn_relu(channels_out, channels_out))
