"""Weights to begin with: an encoder's, as torchvision names them, wherever they are kept."""

import io

import torch
from safetensors.torch import load
from torch import Tensor, nn

from backdrop.common import storage
from backdrop.common.errors import ConfigError, shorten
from backdrop.config import Pretrained

# torchvision's classifiers, which a segmentation network has no use for.
IGNORED = ("fc.", "classifier.")


def load_encoder(network: nn.Module, source: Pretrained) -> None:
    """Loads weights into a network's encoder: all its keys must be there, and nothing else but a classifier.

    Raises:
        ConfigError: if the network has no encoder, or the weights are not those that the recipe means.
        StorageError: if they can't be read.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError("This network has no encoder to load pretrained weights into", "Remove pretrained")
    weights = {key: value for key, value in _read(source).items() if not key.startswith(IGNORED)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"{source.address} doesn't fit the encoder ({shorten(error)})", "Name other weights"
        ) from error


def _read(source: Pretrained) -> dict[str, Tensor]:
    data = storage.read_bytes(source.address)
    found = storage.sha256(data)
    if not found.startswith(source.sha256):
        raise ConfigError(f"{source.address} has sha256 {found}, not {source.sha256}", "Fix pretrained.sha256")
    try:
        if data[8:9] == b"{":  # safetensors begins with a length and JSON; torch's formats, 2017's and today's, don't
            return load(data)
        return dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # each format has its own errors
        raise ConfigError(
            f"{source.address} holds no weights ({shorten(error)})", "Use safetensors or torch.save"
        ) from error
