"""Networks in plain torch. They import only torch, so that they run on any machine."""

from typing import Any

from torch import nn

from backdrop.models.linknet import LinkNet
from backdrop.models.unet import UNet
from backdrop.models.vgg_unet import VggUNet

NETWORKS: dict[str, type[UNet | LinkNet | VggUNet]] = {"unet": UNet, "linknet": LinkNet, "vgg_unet": VggUNet}


def build(kind: str, **options: Any) -> nn.Module:
    """A network by its `kind` in a recipe, with the recipe's options and torch's random initialization.

    Every network maps (B, 3, H, W) float to logits (B, 1, H, W), H and W multiples of its `stride`.
    """
    return NETWORKS[kind](**options)
