"""Predicts a photograph's probability at its own size, and averages many networks exactly.

A member computes in float; its probability is then rounded once to 2^-24 and summed with integer weights in float64,
where whole numbers below 2^53 are exact, so that the mean is the same to the last bit whatever the order of members.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from backdrop.config import Input, Tta
from backdrop.data import masks
from backdrop.data.preprocessing import normalize, to_input

BATCH = 4
ALL = slice(None)
PIECE = 40_000_000  # pixels of a photograph, once for each test-time augmentation, that are resized in one piece
STRIP = 2**18  # pixels that a CPU adds at a time, so that they stay in its cache
ONE = 2**24
PLAIN = Tta()
WEIGHT_ONE = 2**20
EXACT = 2**53  # float64 represents every whole number up to here


def from_output(logits: Tensor, height: int, width: int, spec: Input, align_corners: bool = False) -> Tensor:
    """Logits (1, 1, h, w) at the photograph's size (H, W): cropped if it was padded, else resized.

    `align_corners` is as in torch's `interpolate`.
    """
    if spec.fit == "stretch":
        return _resize(logits, (height, width), align_corners)[0, 0]
    rows, columns = logits.shape[-2:]
    top, left = ((rows - height) // 2, (columns - width) // 2) if spec.fit == "reflect" else (0, 0)
    return logits[0, 0, top : top + height, left : left + width]


@dataclass(frozen=True)
class Answer:
    """A network's answer to one photograph: logits (1, 1, h, w), and the photograph's own size.

    There are logits for each test-time augmentation, or their mean if it can be taken before they are resized.
    """

    logits: Sequence[Tensor]
    height: int
    width: int
    spec: Input
    tta: Tta
    align_corners: bool

    @torch.inference_mode()
    def probability(self, rows: slice = ALL) -> Tensor:
        """The probability (H, W) float32 at the photograph's own size, or only some of its rows."""
        start, stop, _ = rows.indices(self.height)
        pixels = self.height * self.width
        if self.spec.fit != "stretch" or pixels * len(self.logits) <= PIECE:
            whole = [from_output(each, self.height, self.width, self.spec, self.align_corners) for each in self.logits]
            return _average(whole, self.tta)[start:stop]
        probability = self.logits[0].new_empty(stop - start, self.width)
        step = max(1, PIECE // 8 // self.width // len(self.logits))
        for top in range(start, stop, step):
            piece = range(top, min(top + step, stop))
            probability[top - start : piece.stop - start] = _average(
                [self._rows(each, piece) for each in self.logits], self.tta
            )
        return probability

    def _rows(self, logits: Tensor, rows: range) -> Tensor:
        """Some rows (N, W) of logits that are resized as in `from_output`."""
        height, places = logits.shape[-2], torch.arange(rows.start, rows.stop, dtype=torch.float64)
        if self.align_corners:
            places *= (height - 1) / max(1, self.height - 1)
        else:
            places = ((places + 0.5) * height / self.height - 0.5).clamp(0, height - 1)
        above = places.floor().long()
        below = (above + 1).clamp(max=height - 1)
        share = (places - above).float().to(logits.device)[:, None]
        lines = torch.lerp(logits[0, 0, above.to(logits.device)], logits[0, 0, below.to(logits.device)], share)
        return _resize(lines[None, None], (len(rows), self.width), self.align_corners)[0, 0]


def batches(inputs: Sequence[NDArray[np.uint8]], spec: Input, device: torch.device) -> Iterator[Tensor]:
    """What networks see of photographs: batches (B, 3, h, w) float32 of at most 4, on the device.

    Args:
        inputs: each photograph as `to_input` returns it, (h, w, 3).
        spec: the recipe's input.
        device: where the networks are.
    """
    for start in range(0, len(inputs), BATCH):
        stacked = torch.from_numpy(np.stack(inputs[start : start + BATCH]))
        if device.type == "cuda":
            stacked = stacked.pin_memory().to(device, non_blocking=True)
        yield normalize(stacked, spec)


@torch.inference_mode()
def answers(
    network: nn.Module,
    inputs: Iterable[Tensor],
    sizes: Iterable[tuple[int, int]],
    spec: Input,
    tta: Tta = PLAIN,
    align_corners: bool = False,
    precision: str = "fp32",
) -> Iterator[Answer]:
    """The network's answers to photographs.

    Args:
        network: in evaluation mode.
        inputs: the photographs, as `batches` makes them.
        sizes: each photograph's own height and width.
        spec: the recipe's input.
        tta: the recipe's test-time augmentation.
        align_corners: the recipe's `legacy.output_align_corners`.
        precision: as `precision_of` resolves the recipe's; the network computes in bfloat16 if it is `bf16`.
    """
    remaining = iter(sizes)
    for batch in inputs:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs = [output.float() for output in _outputs(network, batch, tta)]
        if tta.average == "logits" and not align_corners:  # the winners resized first, which `legacy` keeps to the bit
            outputs = [torch.stack(outputs).mean(dim=0)] if len(outputs) > 1 else outputs
        for i, (height, width) in zip(range(len(batch)), remaining, strict=False):
            yield Answer([output[i : i + 1] for output in outputs], height, width, spec, tta, align_corners)


def predict_all(
    network: nn.Module,
    images: Sequence[NDArray[np.uint8]],
    spec: Input,
    tta: Tta = PLAIN,
    align_corners: bool = False,
    precision: str = "fp32",
) -> Iterator[Tensor]:
    """Each photograph's probability (H, W) float32, at its own size.

    Args:
        network: in evaluation mode.
        images: (H, W, 3) RGB each; they may differ in size. The network sees them in batches of 4.
        spec: the recipe's input.
        tta: the recipe's test-time augmentation.
        align_corners: the recipe's `legacy.output_align_corners`.
        precision: as in `answers`.

    Raises:
        DataError: if a photograph doesn't fit the input.
    """
    device = next(network.parameters()).device
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        inputs, sizes = batches([to_input(image, spec) for image in some], spec, device), [i.shape[:2] for i in some]
        for answer in answers(network, inputs, sizes, spec, tta, align_corners, precision):
            yield answer.probability()


def _outputs(network: nn.Module, batch: Tensor, tta: Tta) -> Iterator[Tensor]:
    """Logits (B, 1, H, W) of the batch (B, 3, H, W) for each flip and scale, flipped and resized back."""
    size = batch.shape[-2:]
    flips = [(), *[(3,)] * tta.hflip, *[(2,)] * tta.vflip, *[(2, 3)] * (tta.hflip and tta.vflip)]
    for scale in tta.scales:
        scaled = batch if scale == 1 else _resize(batch, scaled_size(size, scale, network))
        for dims in flips:
            logits = network(scaled.flip(dims)).flip(dims)
            yield logits if scale == 1 else _resize(logits, size)


def _average(outputs: Sequence[Tensor], tta: Tta) -> Tensor:
    """The probability (H, W) from one photograph's logits (H, W) of all test-time augmentations."""
    if len(outputs) == 1:
        return outputs[0].sigmoid()
    stacked = torch.stack(list(outputs))
    if tta.average == "logits":
        return stacked.mean(dim=0).sigmoid_()
    return stacked.sigmoid_().mean(dim=0)


def scaled_size(size: Sequence[int], scale: float, network: nn.Module) -> list[int]:
    """A size (H, W) times a scale, each side the nearest multiple of the network's stride."""
    stride = int(getattr(network, "stride", 1))
    return [max(1, round(side * scale / stride)) * stride for side in size]


def _resize(batch: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    return functional.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=align_corners)


def quantize(probability: Tensor) -> Tensor:
    """A probability as whole units of 2^-24. Exact: float32 represents every whole number up to 2^24."""
    return (probability * ONE).round_()


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Weights as integers in units of 2^-20 of their sum, at least 1 each."""
    total = sum(sorted(weights))
    return [max(1, round(weight / total * WEIGHT_ONE)) for weight in weights]


class Mean:
    """The running weighted mean of members' probabilities for one photograph, or for some of its rows."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.weight = 0

    def add(self, probability: Tensor, weight: int) -> None:
        """Adds a member's probability (H, W) with an integer weight."""
        if self.total is None:
            self.total = torch.zeros_like(probability, dtype=torch.float64)
        step = max(1, STRIP // probability.shape[1]) if self.total.device.type == "cpu" else len(probability)
        for top in range(0, len(probability), step):
            rows = slice(top, top + step)
            self.total[rows].add_(quantize(probability[rows]), alpha=weight)
        self.weight += weight
        assert self.weight * ONE <= EXACT

    def probability(self) -> NDArray[np.float32]:
        """The mean (H, W), 0..1."""
        assert self.total is not None
        return (self.total / (self.weight * ONE)).float().cpu().numpy()

    def mask(self) -> masks.Mask:
        """Where the mean exceeds one half, (H, W); exact, on whole numbers."""
        assert self.total is not None
        return (self.total > self.weight * (ONE // 2)).cpu().numpy()
