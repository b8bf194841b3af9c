"""Makes a trained network cheaper to predict with."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backdrop.models.timm_unet import TimmUNet


def fold_batch_norms(network: nn.Module) -> None:
    """Folds each batch norm into the convolution before it, up to float rounding; the network can't train any more.

    A timm encoder stays as it is: its batch norms may contain an activation, and not all follow a convolution.

    Args:
        network: in evaluation mode; each of our batch norms follows its convolution among a module's children.
    """
    timms = {id(part) for unet in network.modules() if isinstance(unet, TimmUNet) for part in unet.encoder.modules()}
    for parent in [module for module in network.modules() if id(module) not in timms]:
        for (name, layer), (following, norm) in pairwise(list(parent.named_children())):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
                setattr(parent, name, fused)
                setattr(parent, following, nn.Identity())
