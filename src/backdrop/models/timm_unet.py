"""A U-Net on an encoder of timm (`pip install 'backdrop-ml[encoders]'`), which is imported only when one is built."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.common.errors import ConfigError, shorten
from backdrop.models.unet import conv_block

DEEPEST = 32  # stride of the encoder's last features
DECODED = (16, 8, 4, 2, 1)  # strides of the decoder's levels
STRIDES = ([1, 2, 4, 8, 16, 32], [2, 4, 8, 16, 32], [4, 8, 16, 32])  # that an encoder's features may have
REMEDY = "Set network.encoder to a convolutional one, such as convnext_tiny"


class TimmUNet(nn.Module):
    """A U-Net whose encoder is one of timm's convolutional networks; weights are never downloaded.

    Each level of the decoder doubles the size bilinearly, joins the encoder's features of that size, and convolves
    twice. Above the encoder's first features, at stride 2 or 4, the image takes their place, averaged down to the
    level's size, and one convolution is enough.

    Args:
        encoder: a timm architecture, such as `convnext_tiny`.
        width: channels of the decoder at full size, doubled at each halving.

    Raises:
        ConfigError: if timm can't be imported or has no such encoder, or its features don't halve down to stride 32.
        ModuleNotFoundError: if timm isn't installed.
    """

    stride = DEEPEST

    def __init__(self, encoder: str, width: int = 16) -> None:
        super().__init__()
        self.architecture = encoder
        self.encoder = _make_encoder(encoder)
        info = self.encoder.feature_info
        channels = dict(zip(info.reduction(), info.channels(), strict=True))
        self.strides = tuple(channels)
        below = channels[DEEPEST]
        self.up = nn.ModuleList()
        for stride in DECODED:
            joined, count = below + channels.get(stride, 3), 2 if stride in channels else 1
            self.up.append(conv_block(joined, width * stride, count, bias=False))
            below = width * stride
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 3, H, W)."""
        features = dict(zip(self.strides, self.encoder(x), strict=True))
        y = features[DEEPEST]
        for stride, block in zip(DECODED, self.up, strict=True):
            skip = features[stride] if stride in features else functional.avg_pool2d(x, stride)
            y = functional.interpolate(y, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            y = block(torch.cat([skip, y], dim=1))
        logits: Tensor = self.head(y)
        return logits

    def encoder_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's weights, by its names, from those of timm's whole classifier by timm's names.

        Names that the classifier doesn't have stay as they are, for whoever loads them to refuse.
        """
        own = {_flat(name): name for name in self.encoder.state_dict()}
        with torch.device("meta"):
            whole = _import_timm().create_model(self.architecture, pretrained=False)
        head = {_flat(name) for name in whole.state_dict()} - own.keys()
        return {own.get(_flat(name), name): value for name, value in weights.items() if _flat(name) not in head}


def _flat(name: str) -> str:
    """A weight's name as both have it: `stages_0.blocks` in timm's encoders is `stages.0.blocks` in its classifiers."""
    return name.replace(".", "_")


def _make_encoder(name: str) -> Any:
    """A timm network that returns its features, (B, C, H, W) each."""
    timm = _import_timm()
    if not timm.is_model(name):
        raise ConfigError(f"timm {timm.__version__} has no encoder {name}", REMEDY)
    try:
        encoder = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # each family has its own errors
        raise ConfigError(f"{name} can't be an encoder ({shorten(error)})", REMEDY) from error
    strides = encoder.feature_info.reduction()
    if strides not in STRIDES or getattr(encoder, "output_fmt", "NCHW") != "NCHW":
        raise ConfigError(f"{name} can't be an encoder: its features have the strides {strides}", REMEDY)
    # A member's network gets all of its tensors from its file of weights.
    if unsaved := sorted(dict(encoder.named_buffers()).keys() - encoder.state_dict().keys()):
        raise ConfigError(f"{name} can't be an encoder: its weights don't contain {unsaved[0]}", REMEDY)
    return encoder


def _import_timm() -> ModuleType:
    try:
        import timm
    except RuntimeError as error:  # torchvision's, if it was built for another torch
        what = f"timm can't be imported ({shorten(error)})"
        raise ConfigError(what, f"Install the torchvision that fits torch {torch.__version__}") from error
    module: ModuleType = timm
    return module
