"""Augmentation by torch on the training device. Deterministic by (seed, epoch, sample), but not equal to the host's.

Random numbers are drawn on the CPU and passed to kernels as arguments, so nothing waits for the GPU. Imports only torch
and numpy, so that it runs on any machine.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from backdrop.config import augmentation as config

HALF = 127  # Mask values above it are inside.
LUMA = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601
ERASED_HEIGHT, ERASED_WIDTH = (0.04, 0.2), (0.1, 1.0)  # of a rectangle, as shares of the image

Pair = tuple[Tensor, Tensor]  # an image (3, H, W) RGB and its soft mask (1, H, W), both float in 0..255


class Augmenter:
    """A recipe's augmentation.

    Args:
        changes: the changes, applied in this order.
        seed: the member's seed.
        hard_masks: whether to binarize masks at one half after each affine change.
    """

    def __init__(self, changes: Sequence["config.Change"], seed: int, hard_masks: bool = False) -> None:
        self.changes, self.seed, self.hard_masks = changes, seed, hard_masks

    def __call__(self, image: Tensor, mask: Tensor, epoch: int, sample: int) -> Pair:
        """Image (H, W, 3) RGB and soft mask (H, W), uint8, augmented for this epoch and sample."""
        draw = np.random.default_rng([self.seed, epoch, sample])
        pair = image.permute(2, 0, 1).float(), mask[None].float()
        for change in self.changes:
            pair = _maybe(change, pair, draw, self.hard_masks)
        changed, soft = (part.round().byte() for part in pair)
        return changed.permute(1, 2, 0), soft[0]


def _maybe(change: "config.Change", pair: Pair, draw: np.random.Generator, hard_masks: bool) -> Pair:
    if draw.random() < change.p:
        return _change(change, pair, draw, hard_masks)
    return _hard(pair) if change.kind == "affine" and hard_masks else pair


def _change(change: "config.Change", pair: Pair, draw: np.random.Generator, hard_masks: bool) -> Pair:
    image, mask = pair
    if change.kind == "hflip":
        return image.flip(-1), mask.flip(-1)
    if change.kind == "affine":
        moved = _affine(change, torch.cat(pair), draw)
        return _hard((moved[:3], moved[3:])) if hard_masks else (moved[:3], moved[3:])
    if change.kind == "brightness":
        return _away(image, 0.0, draw.uniform(*change.factor)), mask
    if change.kind == "contrast":
        return _away(image, _luma(image).mean(), draw.uniform(*change.factor)), mask
    if change.kind == "saturation":
        return _away(image, _luma(image), draw.uniform(*change.factor)), mask
    if change.kind == "hsv":
        return _hsv(
            image, *(draw.uniform(-limit, limit) for limit in (change.hue, change.saturation, change.value))
        ), mask
    if change.kind == "gray":
        gray = _luma(image).expand_as(image)
        return torch.where(_inside(mask), gray, image) if change.region == "object" else gray, mask
    if change.kind == "erase":
        return _erase(image, int(draw.integers(1, change.max_count + 1)), draw), mask
    return _change(change.of[draw.integers(len(change.of))], pair, draw, hard_masks)


def _affine(change: "config.Affine", planes: Tensor, draw: np.random.Generator) -> Tensor:
    """Bilinear, with borders reflected at the outermost pixels."""
    height, width = planes.shape[1:]
    shift_x, shift_y = (draw.uniform(-change.shift, change.shift) * side for side in (width, height))
    scale, angle = draw.uniform(*change.scale), math.radians(draw.uniform(-change.rotate, change.rotate))
    # Each pixel's source relative to the center, in grid_sample's units: the outermost pixels are at -1 and 1.
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=planes.device) - (middle_x + shift_x)
    y = torch.arange(height, device=planes.device)[:, None] - (middle_y + shift_y)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    grid = torch.stack([(cosine * x + sine * y) / middle_x, (cosine * y - sine * x) / middle_y], dim=-1)
    moved = functional.grid_sample(planes[None], grid[None], "bilinear", "reflection", align_corners=True)
    return moved[0]


def _hard(pair: Pair) -> Pair:
    image, mask = pair
    return image, _inside(mask) * 255.0


def _inside(mask: Tensor) -> Tensor:
    return mask.round() > HALF


def _luma(image: Tensor) -> Tensor:
    weighted = [plane * share for plane, share in zip(image[:, None], LUMA, strict=True)]
    return torch.stack(weighted).sum(0)


def _away(image: Tensor, anchor: Tensor | float, factor: float) -> Tensor:
    return (anchor + factor * (image - anchor)).clamp(0, 255)


def _hsv(image: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """Shifts hue (in sixths of the circle), saturation and value of the hexagonal model (Smith 1978, SIGGRAPH)."""
    red, green, blue = image[:, None]
    top = image.amax(0, keepdim=True)
    chroma = top - image.amin(0, keepdim=True)
    divisor = chroma.clamp(min=1e-6)
    of_red = ((green - blue) / divisor) % 6
    of_others = torch.where(top == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    turned = torch.where(top == red, of_red, of_others) + hue / 30
    full = (chroma / top.clamp(min=1e-6) + saturation / 255).clamp(0, 1) * (chroma > 0)
    bright = (top + value).clamp(0, 255)
    sixths = [(turned + n) % 6 for n in (5, 3, 1)]
    return torch.cat([bright * (1 - full * torch.minimum(k, 4 - k).clamp(0, 1)) for k in sixths])


def _erase(image: Tensor, count: int, draw: np.random.Generator) -> Tensor:
    image = image.clone()
    for _ in range(count):
        (top, bottom), (left, right) = (
            _span(side, share, draw) for side, share in zip(image.shape[1:], (ERASED_HEIGHT, ERASED_WIDTH), strict=True)
        )
        for plane in image:
            plane[top:bottom, left:right] = int(draw.integers(256))
    return image


def _span(side: int, share: tuple[float, float], draw: np.random.Generator) -> tuple[int, int]:
    length = max(1, int(side * draw.uniform(*share)))
    start = int(draw.integers(side - length + 1))
    return start, start + length
