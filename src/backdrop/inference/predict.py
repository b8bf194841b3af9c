"""What networks answer to photographs, four at a time."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from backdrop.config import Input, Tta
from backdrop.data.preprocessing import normalize, to_input
from backdrop.inference.answer import Answer

BATCH = 4
PLAIN = Tta()


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
            outputs = torch.stack([output[:, 0].float() for output in _outputs(network, batch, tta)], dim=1)  # BKhw
        if tta.average == "logits" and not align_corners:  # the winners resized first, which `legacy` keeps to the bit
            outputs = outputs.mean(dim=1, keepdim=True)
        for logits, (height, width) in zip(outputs[:, None], remaining, strict=False):
            yield Answer(logits, height, width, spec, tta, align_corners)


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


def scaled_size(size: Sequence[int], scale: float, network: nn.Module) -> list[int]:
    """A size (H, W) times a scale, each side the nearest multiple of the network's stride."""
    stride = int(getattr(network, "stride", 1))
    return [max(1, round(side * scale / stride)) * stride for side in size]


def _resize(batch: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(batch, size=tuple(size), mode="bilinear", align_corners=False)
