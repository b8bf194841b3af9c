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

from backdrop.config import Input, Tta
from backdrop.data import masks
from backdrop.data.preprocessing import normalize, to_input

BATCH = 4
ONE = 2**24
PLAIN = Tta()
WEIGHT_ONE = 2**20


def from_output(logits: Tensor, height: int, width: int, spec: Input, align_corners: bool = False) -> Tensor:
    """Logits (1, 1, h, w) at the photograph's size (H, W): cropped if it was padded, else resized by pixel centers.

    With `align_corners`, resized by the pixels at the corners.
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
    where = next(network.parameters()).device
    batch = normalize(torch.from_numpy(np.stack([to_input(image, spec) for image in images])).to(where), spec)
    answers = [answer.float() for answer in _answers(network, batch, tta)]
    sizes = [image.shape[:2] for image in images]
    own_size = (
        [from_output(a[i : i + 1], h, w, spec, align_corners) for a in answers] for i, (h, w) in enumerate(sizes)
    )
    return [_average(logits, tta) for logits in own_size]


def predict_all(
    network: nn.Module, images: Sequence[NDArray[np.uint8]], spec: Input, tta: Tta = PLAIN, align_corners: bool = False
) -> Iterator[Tensor]:
    """As `predict`, for as many photographs as there are, a few at a time."""
    for start in range(0, len(images), BATCH):
        yield from predict(network, images[start : start + BATCH], spec, tta, align_corners)


def _answers(network: nn.Module, batch: Tensor, tta: Tta) -> Iterator[Tensor]:
    """Logits (B, 1, H, W) of the batch (B, 3, H, W) as it is and in each other way, turned back."""
    size = batch.shape[-2:]
    flips = [(), *[(3,)] * tta.hflip, *[(2,)] * tta.vflip, *[(2, 3)] * (tta.hflip and tta.vflip)]
    for scale in tta.scales:
        scaled = batch if scale == 1 else _resize(batch, [_whole(side * scale, network) for side in size])
        for dims in flips:
            logits = network(scaled.flip(dims)).flip(dims)
            yield logits if scale == 1 else _resize(logits, size)


def _average(answers: Sequence[Tensor], tta: Tta) -> Tensor:
    """The probability (H, W) of one photograph's logits (H, W), one of each answer."""
    if tta.average == "logits":
        return torch.stack(list(answers)).mean(dim=0).sigmoid()
    return torch.stack(list(answers)).sigmoid().mean(dim=0)


def _whole(side: float, network: nn.Module) -> int:
    """The multiple of the network's stride that is nearest to a side."""
    stride = int(getattr(network, "stride", 1))
    return max(1, round(side / stride)) * stride


def _resize(batch: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    return functional.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=align_corners)


def quantize(probability: Tensor) -> Tensor:
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
        units = quantize(probability) * weight
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
