"""Networks in plain torch, so that they run on any machine; only `timm_unet` needs timm, once it is built."""

from typing import Any

from torch import nn

from backdrop.models.linknet import LinkNet
from backdrop.models.timm_unet import TimmUNet
from backdrop.models.unet import UNet
from backdrop.models.vgg_unet import VggUNet

NETWORKS: dict[str, type[UNet | LinkNet | VggUNet | TimmUNet]] = {
    "unet": UNet,
    "linknet": LinkNet,
    "vgg_unet": VggUNet,
    "timm_unet": TimmUNet,
}


def build(kind: str, **options: Any) -> nn.Module:
    """A network by its `kind` in a recipe, with the recipe's options and torch's random initialization.

    Every network maps (B, 3, H, W) float to logits (B, 1, H, W), H and W multiples of its `stride`.

    Raises:
        ConfigError: if timm doesn't work, or has no such encoder.
        ModuleNotFoundError: if timm is needed and isn't installed.
    """
    return NETWORKS[kind](**options)
