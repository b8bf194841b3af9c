"""LinkNet (Chaurasia and Culurciello 2017, arXiv:1707.03718) as the 1st place of the Carvana challenge built it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.models.resnet import ResNet


class DecoderBlock(nn.Module):
    """1x1 convolution to a quarter of the channels, transposed 3x3 that doubles the size, 1x1 to `channels_out`.

    Each with bias, batch norm and ReLU.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        middle = channels_in // 4
        up = nn.ConvTranspose2d(middle, middle, 3, stride=2, padding=1, output_padding=1)
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels_in, middle, 1), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)),
            *(up, nn.BatchNorm2d(middle), nn.ReLU(inplace=True)),
            *(nn.Conv2d(middle, channels_out, 1), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels_out, 2H, 2W)."""
        y: Tensor = self.layers(x)
        return y


class _Doubling(nn.ConvTranspose2d):
    """A transposed 3x3 convolution from (B, C, h, w) to 2h + 1, 2w + 1.

    In bfloat16 a CPU does the same with padding, 15 times faster than without.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x, output_size)
        padded = functional.pad(x, (1, 0, 1, 0))
        return functional.conv_transpose2d(padded, self.weight, self.bias, 2, padding=1, output_padding=1)[..., 1:, 1:]


class LinkNet(nn.Module):
    """LinkNet on a ResNet encoder: decoder features are joined with encoder features of the same size.

    Args:
        encoder: `resnet18` or `resnet34`.
        width: channels of the encoder's first stage; 64 with `resnet34` is the winners' LinkNet34.
        skip: `add` as in the winners' code, or `concat`, followed by a 1x1 convolution, as in their interview.
    """

    stride = 32

    def __init__(self, encoder: str = "resnet34", width: int = 64, skip: str = "add") -> None:
        super().__init__()
        self.encoder = ResNet(encoder, width)
        c1, c2, c3, c4 = self.encoder.channels
        self.decoder4 = DecoderBlock(c4, c3)
        self.decoder3 = DecoderBlock(c3, c2)
        self.decoder2 = DecoderBlock(c2, c1)
        self.decoder1 = DecoderBlock(c1, c1)
        self.joins = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in (c3, c2, c1)) if skip == "concat" else None
        # From half size h: transposed convolution to 2h + 1, 3x3 without padding to 2h - 1, 2x2 with padding to 2h.
        self.head = nn.Sequential(
            *(_Doubling(c1, c1 // 2, 3, stride=2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(c1 // 2, c1 // 2, 3), nn.ReLU(inplace=True)),
            nn.Conv2d(c1 // 2, 1, 2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        e1, e2, e3, e4 = self.encoder(x)
        d4 = self._join(0, self.decoder4(e4), e3)
        d3 = self._join(1, self.decoder3(d4), e2)
        d2 = self._join(2, self.decoder2(d3), e1)
        logits: Tensor = self.head(self.decoder1(d2))
        return logits

    def _join(self, level: int, decoded: Tensor, encoded: Tensor) -> Tensor:
        if self.joins is None:
            return decoded + encoded
        joined: Tensor = self.joins[level](torch.cat([decoded, encoded], dim=1))
        return joined
