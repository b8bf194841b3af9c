"""Losses on logits; torch only.

All compute in float32 (float64 for float64 logits), also under autocast, and are finite for empty and full masks and
any finite logits. Dice and Jaccard are smoothed by one pixel in numerator and denominator, so that a perfect prediction
scores exactly 1, even for an empty mask.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def make_loss(kind: str, **options: Any) -> Loss:
    """A loss by its `kind` in a recipe, with the recipe's options.

    Every loss maps logits (B, 1, H, W), targets of the same shape in 0..1, and the photographs' weights (B,) (at
    least 0 and not all 0; None for equal weights) to a scalar.
    """
    return partial(LOSSES[kind], **options)


def bce_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None, /, *, clamped: bool = False) -> Tensor:
    """Binary cross-entropy + 1 - soft Dice, the mean over images of each.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1.
        weights: each photograph's, (B,).
        clamped: smooth as in the winners' code, where Dice can exceed 1, and clamp its mean to 0..1.
    """
    logits, target, weights = _full(logits, target, weights)
    overlap, total = _overlap_and_total(logits.sigmoid(), target)
    if clamped:
        dice = _mean(2 * (overlap + 1) / (total + 1), weights).clamp(0, 1)
    else:
        dice = _mean((2 * overlap + 1) / (total + 1), weights)
    return _mean(_cross_entropy(logits, target).mean(dim=(1, 2, 3)), weights) + 1 - dice


def bce_log(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    /,
    *,
    of: Literal["dice", "jaccard"] = "dice",
    over: Literal["image", "batch"] = "image",
) -> Tensor:
    """Binary cross-entropy - ln(soft Dice or Jaccard) (Iglovikov and Shvets 2018, arXiv:1801.05746).

    The target is binarized for the fraction. The winners' code added 1e-15 to its denominator, which float32 rounds
    away and which leaves ln(0) for an empty mask; smoothing by one pixel bounds the logarithm and its gradient, and
    changes the Dice of a photograph by about 1e-6.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1.
        weights: each photograph's, (B,).
        of: the fraction in the logarithm.
        over: sum over each image, or over the full batch (as the winners did).
    """
    logits, target, weights = _full(logits, target, weights)
    overlap, total = _overlap_and_total(logits.sigmoid(), (target > 0.5).to(target))
    if over == "batch":
        overlap, total = (weights * overlap).sum(), (weights * total).sum()
    share = (2 * overlap + 1) / (total + 1) if of == "dice" else (overlap + 1) / (total - overlap + 1)
    penalty = -share.log() if over == "batch" else _mean(-share.log(), weights)
    return _mean(_cross_entropy(logits, target).mean(dim=(1, 2, 3)), weights) + penalty


def boundary(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    /,
    *,
    band: float = 0.04,
    weight: float = 3.0,
    profile: Literal["distance", "box"] = "distance",
    squared: bool = False,
) -> Tensor:
    """Binary cross-entropy + 1 - soft Dice, with higher weights for pixels near the boundary.

    Pixel weights are scaled to a mean of 1 over the batch. With `profile="box"` and `squared` it is the winners' loss
    except for the smoothing: theirs adds 1 / (sum + 1) to the Dice, about 1e-5 on a photograph.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1; the boundary is where it crosses 0.5.
        weights: each photograph's, (B,).
        band: width of the band (see `boundary_weights`).
        weight: weight of a pixel at the boundary.
        profile: how the weight falls with distance (see `boundary_weights`).
        squared: whether pixel weights are squared in the Dice term.
    """
    logits, target, weights = _full(logits, target, weights)
    pixels = boundary_weights(target > 0.5, band, weight, profile).to(target)
    pixels = pixels / _mean(pixels.mean(dim=(1, 2, 3)), weights)
    overlap, total = _overlap_and_total(logits.sigmoid(), target, pixels.square() if squared else pixels)
    cross_entropy = _mean((pixels * _cross_entropy(logits, target)).mean(dim=(1, 2, 3)), weights)
    return cross_entropy + 1 - _mean((2 * overlap + 1) / (total + 1), weights)


LOSSES: dict[str, Callable[..., Tensor]] = {"bce_dice": bce_dice, "bce_log": bce_log, "boundary": boundary}


@torch.no_grad()
def boundary_weights(mask: Tensor, band: float, weight: float, profile: Literal["distance", "box"]) -> Tensor:
    """Pixel weights: 1 far from the mask's boundary, up to `weight` near it.

    - `distance`: falls linearly from `weight` at the boundary to 1 at the band's edges, half its width away. A pixel's
      distance is Euclidean, from its center to the nearest edge between a pixel of the mask and one outside. The edges
      of the image are not a boundary.
    - `box` (the winners' code): `weight` where the mean of the mask in a square box around the pixel is 0.01 to 0.99,
      else 1. The box's side is the band's width rounded to the nearest odd number of pixels (an even number is rounded
      up). The mask is 0 outside the image, so the image's edges are a boundary of a mask that touches them.

    Args:
        mask: (B, 1, H, W) bool.
        band: total width of the band as a share of H; at least 3 pixels are used.
        weight: weight at the boundary, at least 1.
        profile: `distance` or `box`.

    Returns:
        (B, 1, H, W) float32.
    """
    width = max(3.0, band * mask.shape[-2])
    nearness = 1 - _distance(mask, width / 2) if profile == "distance" else _mixed(mask, 2 * int(width / 2) + 1)
    return 1 + (weight - 1) * nearness


def _mixed(mask: Tensor, side: int) -> Tensor:
    """1.0 where a box of this odd side has at least 1 % of mask and at least 1 % of background, else 0.0."""
    half = side // 2
    rows = functional.avg_pool2d(mask.float(), (side, 1), stride=1, padding=(half, 0))
    mean = functional.avg_pool2d(rows, (1, side), stride=1, padding=(0, half))
    return ((mean >= 0.01) & (mean <= 0.99)).float()


def _distance(mask: Tensor, reach: float) -> Tensor:
    """Each pixel's distance to the mask's boundary as a share of `reach` pixels, at most 1.

    It is the distance to the nearest edge of a pixel of the other class. Squared distances are sums over the axes, so
    one pass along each finds the minimum (Felzenszwalb and Huttenlocher 2012). No pass searches beyond `reach`.
    """
    classes = torch.stack([mask, ~mask])  # 2B1HW
    squares = 1 - classes.float()
    for axis in (-1, -2):
        squares = _nearest(squares, axis, reach)
    return squares.amax(dim=0).sqrt()  # the distance to a pixel's own class is 0


def _nearest(squares: Tensor, axis: int, reach: float) -> Tensor:
    """The minimum along an axis of a pixel's value plus the squared distance, in units of `reach`, to its near edge."""
    minimum, size = squares.clone(), squares.shape[axis]
    for shift in range(1, min(math.ceil(reach + 0.5), size)):
        moved = squares + ((shift - 0.5) / reach) ** 2
        for start, source in ((shift, 0), (0, shift)):
            target = minimum.narrow(axis, start, size - shift)
            torch.minimum(target, moved.narrow(axis, source, size - shift), out=target)
    return minimum


def _full(logits: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All in float32, or float64 if the logits are; weights default to 1."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, target = logits.to(dtype), target.to(dtype)
    return logits, target, logits.new_ones(len(logits)) if weights is None else weights.to(logits)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _overlap_and_total(probability: Tensor, target: Tensor, pixels: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Each image's soft intersection, and the sum of its two areas: (B,) each."""
    overlap = (pixels * probability * target).sum(dim=(1, 2, 3))
    total = (pixels * (probability + target)).sum(dim=(1, 2, 3))
    return overlap, total
