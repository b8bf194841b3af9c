"""Networks in plain torch: they import nothing but torch, so that they run on any GPU box."""

from typing import Any

from torch import nn

from backdrop.models.linknet import LinkNet
from backdrop.models.unet import UNet
from backdrop.models.vgg_unet import VggUNet

NETWORKS: dict[str, type[UNet | LinkNet | VggUNet]] = {"unet": UNet, "linknet": LinkNet, "vgg_unet": VggUNet}


def build(kind: str, **options: Any) -> nn.Module:
    """A network by its `kind` in a recipe, with the recipe's options; weights are torch's own random ones.

    Every network maps (B, 3, H, W) float to logits (B, 1, H, W), H and W multiples of its `stride`.
    """
    return NETWORKS[kind](**options)
