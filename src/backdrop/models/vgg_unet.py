"""U-Net on VGG-11: TernausNet (Iglovikov and Shvets 2018, arXiv:1801.05746) as the winners of Carvana built it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.models.vgg import Vgg11


class VggUNet(nn.Module):
    """U-Net with a VGG-11 encoder and a decoder of transposed convolutions, without batch norm.

    With an encoder of 64, width 32 is the winners' TernausNet-11 and width 64 their wide one.

    Args:
        width: channels of the decoder at full size.
        encoder_width: channels of the encoder at full size; torchvision's is 64.
    """

    stride = 32

    def __init__(self, width: int = 32, encoder_width: int = 64) -> None:
        super().__init__()
        self.encoder = Vgg11(encoder_width)
        c1, c2, c3, c4, c5 = self.encoder.channels
        self.center = _block(c5, 16 * width, 8 * width)
        self.decoder5 = _block(8 * width + c5, c5, 8 * width)
        self.decoder4 = _block(8 * width + c4, c4, 4 * width)
        self.decoder3 = _block(4 * width + c3, c3, 2 * width)
        self.decoder2 = _block(2 * width + c2, c2, width)
        self.decoder1 = nn.Sequential(nn.Conv2d(width + c1, width, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        e1, e2, e3, e4, e5 = self.encoder(x)
        d5 = self.center(functional.max_pool2d(e5, 2))
        d4 = self.decoder5(torch.cat([d5, e5], dim=1))
        d3 = self.decoder4(torch.cat([d4, e4], dim=1))
        d2 = self.decoder3(torch.cat([d3, e3], dim=1))
        d1 = self.decoder2(torch.cat([d2, e2], dim=1))
        logits: Tensor = self.head(self.decoder1(torch.cat([d1, e1], dim=1)))
        return logits


def _block(channels_in: int, middle: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, then a transposed one that doubles the size, each with ReLU."""
    up = nn.ConvTranspose2d(middle, channels_out, 3, stride=2, padding=1, output_padding=1)
    convolution = nn.Conv2d(channels_in, middle, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), up, nn.ReLU(inplace=True))
