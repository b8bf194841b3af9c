"""From a photograph to a network's probability at the photograph's own size, and to the mean of many networks.

A member computes in float; its probability is then rounded once to 2^-24 and summed in int64 with integer
weights, so that the mean is the same to the last bit whatever the order or sharding of members.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from backdrop import masks
from backdrop.errors import DataError
from backdrop.recipe import Input

BATCH = 4
ONE = 2**24
WEIGHT_ONE = 2**20
# ImageNet's mean and standard deviation of R, G, B in 0..1, as torchvision gives them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_input(image: NDArray[np.uint8], spec: Input) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) or a mask (H, W), 0..255, at the size of a network's input.

    Raises:
        DataError: if it is to be padded and is larger than that.
    """
    if spec.fit == "stretch":
        return masks.resize(image, spec.height, spec.width)
    try:
        return masks.pad(image, spec.height, spec.width)
    except ValueError as error:
        raise DataError(f"A photograph doesn't fit the recipe ({error})", "Set a larger input.size") from error


def normalise(images: Tensor, spec: Input) -> Tensor:
    """A batch of RGB inputs (B, H, W, 3) uint8 as the network wants it: (B, 3, H, W) float32, channels last."""
    batch = images.permute(0, 3, 1, 2).float() / 255
    if spec.normalize == "imagenet":
        mean, deviation = (torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in IMAGENET)
        batch = (batch - mean) / deviation
    return batch.flip(1) if spec.channels == "bgr" else batch


def from_output(logits: Tensor, height: int, width: int, spec: Input) -> Tensor:
    """Logits (1, 1, h, w) at the photograph's size (H, W): cropped if it was padded, else resized by pixel centres."""
    if spec.fit == "pad":
        return logits[0, 0, :height, :width]
    return functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


@torch.inference_mode()
def predict(network: nn.Module, images: Sequence[NDArray[np.uint8]], spec: Input) -> list[Tensor]:
    """Each photograph's probability (H, W) float32, at its own size.

    Args:
        network: in evaluation mode.
        images: (H, W, 3) RGB each; they may differ in size.
        spec: the recipe's input.

    Raises:
        DataError: if a photograph doesn't fit the input.
    """
    where = next(network.parameters()).device
    inputs = torch.from_numpy(np.stack([to_input(image, spec) for image in images])).to(where)
    logits = network(normalise(inputs, spec)).float()
    sizes = [image.shape[:2] for image in images]
    return [from_output(one[None], h, w, spec).sigmoid() for one, (h, w) in zip(logits, sizes, strict=True)]


def predict_all(network: nn.Module, images: Sequence[NDArray[np.uint8]], spec: Input) -> Iterator[Tensor]:
    """As `predict`, for as many photographs as there are, a few at a time."""
    for start in range(0, len(images), BATCH):
        yield from predict(network, images[start : start + BATCH], spec)


def quantise(probability: Tensor) -> Tensor:
    """A probability in units of 2^-24, int64. Exact: float32 holds every whole number up to 2^24."""
    return (probability * ONE).round().long()


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Weights in proportion to the given ones, in whole 2^-20ths of their sum, at least one each."""
    total = sum(sorted(weights))
    return [max(1, round(weight / total * WEIGHT_ONE)) for weight in weights]


class Mean:
    """The running weighted mean of members' probabilities of one photograph."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.weight = 0

    def add(self, probability: Tensor, weight: int) -> None:
        """Adds a member's probability (H, W) with an integer weight."""
        units = quantise(probability) * weight
        self.total = units if self.total is None else self.total.add_(units)
        self.weight += weight

    def probability(self) -> NDArray[np.float32]:
        """The mean (H, W), 0..1."""
        assert self.total is not None
        return (self.total.double() / (self.weight * ONE)).float().cpu().numpy()

    def mask(self) -> masks.Mask:
        """Where the mean exceeds one half, decided on the integers: (H, W)."""
        assert self.total is not None
        return (self.total > self.weight * (ONE // 2)).cpu().numpy()
