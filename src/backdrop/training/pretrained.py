"""Loads an encoder's pretrained weights, with torchvision's or timm's names, from a file or S3."""

import io

import torch
from safetensors.torch import load
from torch import Tensor, nn

from backdrop.common import storage
from backdrop.common.errors import ConfigError, is_out_of_memory, shorten
from backdrop.config import Pretrained
from backdrop.models.timm_unet import TimmUNet

# torchvision's classifiers, which a segmentation network doesn't have.
IGNORED = ("fc.", "classifier.")


def load_encoder(network: nn.Module, source: Pretrained) -> None:
    """Loads weights into a network's encoder. The keys must match; only a classifier's are ignored.

    Raises:
        ConfigError: if the network has no encoder, the weights don't fit it, or their sha256 isn't the recipe's.
        StorageError: if they can't be read.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError("This network has no encoder to load pretrained weights into", "Remove the key pretrained")
    weights = _read(source)
    if isinstance(network, TimmUNet):
        weights = network.encoder_weights(weights)
    else:
        weights = {key: value for key, value in weights.items() if not key.startswith(IGNORED)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        what = f"{source.source} doesn't fit the encoder ({shorten(error)})"
        raise ConfigError(what, "Set pretrained.address to weights of this encoder") from error


def _read(source: Pretrained) -> dict[str, Tensor]:
    address = source.source
    data = storage.read_bytes(address)
    digest = storage.sha256(data)
    if not digest.startswith(source.sha256):
        raise ConfigError(f"{address} has sha256 {digest}, not {source.sha256}", "Fix pretrained.sha256")
    try:
        if data[8:9] == b"{":  # safetensors starts with a length and JSON; torch's formats don't
            return load(data)
        return dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # each format has its own errors
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{address} is not a file of weights ({shorten(error)})", "Use safetensors or torch.save"
        ) from error
