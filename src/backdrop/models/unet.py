"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch norm and bilinear upsampling."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """U-Net of `depth` halvings with `width` channels at full size, doubled at each halving.

    With width 32, depth 6, max_channels 1024, three up convolutions and bias it is the winners' U-Net from scratch.

    Args:
        width: channels at full size.
        depth: how often the size is halved; the input's sides must be multiples of 2**depth.
        max_channels: maximum number of channels of a level; None for no limit.
        up_convolutions: number of convolutions after each upsampling.
        bias: whether convolutions have a bias in addition to batch norm.
        align_corners: as in torch's `interpolate`; torch 0.2 upsampled with it.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 5,
        max_channels: int | None = None,
        up_convolutions: int = 2,
        bias: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.stride = 2**depth
        self.align_corners = align_corners
        channels = [min(width * 2**level, max_channels or width * 2**level) for level in range(depth + 1)]
        self.down = nn.ModuleList(conv_block(low, high, 2, bias) for low, high in pairwise([3, *channels]))
        self.up = nn.ModuleList(
            conv_block(channels[level] + channels[level + 1], channels[level], up_convolutions, bias)
            for level in reversed(range(depth))
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
            x = functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=self.align_corners)
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits


def conv_block(channels_in: int, channels_out: int, convolutions: int, bias: bool) -> nn.Sequential:
    """Repeats 3x3 convolution that keeps the size, batch norm and ReLU."""
    ends = [channels_in, *[channels_out] * convolutions]
    return nn.Sequential(*(_conv_bn_relu(low, high, bias) for low, high in pairwise(ends)))


def _conv_bn_relu(channels_in: int, channels_out: int, bias: bool) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
