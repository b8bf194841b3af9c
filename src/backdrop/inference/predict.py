"""Predicts a photograph's probability at its own size, and averages many networks exactly.

A member computes in float; its probability is then rounded once to 2^-24 and summed in int64 with integer
weights, so that the mean is the same to the last bit whatever the order or sharding of members.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from backdrop.config import Input, Tta
from backdrop.data import masks
from backdrop.data.preprocessing import normalize, to_input

BATCH = 4
ONE = 2**24
PLAIN = Tta()
WEIGHT_ONE = 2**20


def from_output(logits: Tensor, height: int, width: int, spec: Input, align_corners: bool = False) -> Tensor:
    """Logits (1, 1, h, w) at the photograph's size (H, W): cropped if it was padded, else resized.

    `align_corners` is as in torch's `interpolate`.
    """
    if spec.fit == "stretch":
        return _resize(logits, (height, width), align_corners)[0, 0]
    rows, columns = logits.shape[-2:]
    top, left = ((rows - height) // 2, (columns - width) // 2) if spec.fit == "reflect" else (0, 0)
    return logits[0, 0, top : top + height, left : left + width]


@torch.inference_mode()
def predict(
    network: nn.Module, images: Sequence[NDArray[np.uint8]], spec: Input, tta: Tta = PLAIN, align_corners: bool = False
) -> list[Tensor]:
    """Each photograph's probability (H, W) float32, at its own size.

    Args:
        network: in evaluation mode.
        images: (H, W, 3) RGB each; they may differ in size.
        spec: the recipe's input.
        tta: the recipe's test-time augmentation.
        align_corners: the recipe's `legacy.output_align_corners`.

    Raises:
        DataError: if a photograph doesn't fit the input.
    """
    device = next(network.parameters()).device
    batch = normalize(torch.from_numpy(np.stack([to_input(image, spec) for image in images])).to(device), spec)
    outputs = [answer.float() for answer in _outputs(network, batch, tta)]
    sizes = [image.shape[:2] for image in images]
    own_size = (
        [from_output(a[i : i + 1], h, w, spec, align_corners) for a in outputs] for i, (h, w) in enumerate(sizes)
    )
    return [_average(logits, tta) for logits in own_size]


def predict_all(
    network: nn.Module, images: Sequence[NDArray[np.uint8]], spec: Input, tta: Tta = PLAIN, align_corners: bool = False
) -> Iterator[Tensor]:
    """Like `predict` for any number of photographs, in batches of 4."""
    for start in range(0, len(images), BATCH):
        yield from predict(network, images[start : start + BATCH], spec, tta, align_corners)


def _outputs(network: nn.Module, batch: Tensor, tta: Tta) -> Iterator[Tensor]:
    """Logits (B, 1, H, W) of the batch (B, 3, H, W) for each flip and scale, flipped and resized back."""
    size = batch.shape[-2:]
    flips = [(), *[(3,)] * tta.hflip, *[(2,)] * tta.vflip, *[(2, 3)] * (tta.hflip and tta.vflip)]
    for scale in tta.scales:
        scaled = batch if scale == 1 else _resize(batch, [_round_to_stride(side * scale, network) for side in size])
        for dims in flips:
            logits = network(scaled.flip(dims)).flip(dims)
            yield logits if scale == 1 else _resize(logits, size)


def _average(outputs: Sequence[Tensor], tta: Tta) -> Tensor:
    """The probability (H, W) from one photograph's logits (H, W) of all test-time augmentations."""
    if tta.average == "logits":
        return torch.stack(list(outputs)).mean(dim=0).sigmoid()
    return torch.stack(list(outputs)).sigmoid().mean(dim=0)


def _round_to_stride(side: float, network: nn.Module) -> int:
    """The multiple of the network's stride nearest to a side."""
    stride = int(getattr(network, "stride", 1))
    return max(1, round(side / stride)) * stride


def _resize(batch: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    return functional.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=align_corners)


def quantize(probability: Tensor) -> Tensor:
    """A probability in units of 2^-24, int64. Exact: float32 represents every integer up to 2^24."""
    return (probability * ONE).round().long()


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Weights as integers in units of 2^-20 of their sum, at least 1 each."""
    total = sum(sorted(weights))
    return [max(1, round(weight / total * WEIGHT_ONE)) for weight in weights]


class Mean:
    """The running weighted mean of members' probabilities for one photograph."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.weight = 0

    def add(self, probability: Tensor, weight: int) -> None:
        """Adds a member's probability (H, W) with an integer weight."""
        units = quantize(probability) * weight
        self.total = units if self.total is None else self.total.add_(units)
        self.weight += weight

    def probability(self) -> NDArray[np.float32]:
        """The mean (H, W), 0..1."""
        assert self.total is not None
        return (self.total.double() / (self.weight * ONE)).float().cpu().numpy()

    def mask(self) -> masks.Mask:
        """Where the mean exceeds one half, (H, W); exact, on integers."""
        assert self.total is not None
        return (self.total > self.weight * (ONE // 2)).cpu().numpy()
