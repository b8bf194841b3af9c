"""Losses on logits; torch only.

All are sums over pixels in float32 whatever the precision of the logits (in float64 for float64), under autocast too,
finite for empty and full masks and any finite logits. Dice and Jaccard are smoothed by one pixel on both sides of the
fraction, so that a perfect answer gives exactly 1, also for an empty mask.
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

    Every loss maps logits (B, 1, H, W), targets of the same shape in 0..1, and each photograph's weight (B,), at least
    0 and not all 0, or None if all weigh the same, to a scalar.
    """
    return partial(LOSSES[kind], **options)


def bce_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None, /, *, clamped: bool = False) -> Tensor:
    """Binary cross-entropy + 1 - soft Dice, the mean over images of each.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1.
        weights: each photograph's, (B,).
        clamped: smooth as the winners' code did: Dice exceeds 1 near perfection, and its mean is cut there.
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

    The fraction takes the target as 0 or 1. The winners' code added 1e-15 to its denominator, which float32 loses
    beside any sum and which leaves ln(0) for an empty mask; one pixel on both sides bounds the logarithm and its
    gradient, and changes the Dice of a photograph by a millionth.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1.
        weights: each photograph's, (B,).
        of: what the logarithm is of.
        over: whether the sums are each image's or the whole batch's (the winners').
    """
    logits, target, weights = _full(logits, target, weights)
    overlap, total = _overlap_and_total(logits.sigmoid(), (target > 0.5).to(target))
    if over == "batch":
        overlap, total = (weights * overlap).sum(), (weights * total).sum()
    share = (2 * overlap + 1) / (total + 1) if of == "dice" else (overlap + 1) / (total - overlap + 1)
    surprise = -share.log() if over == "batch" else _mean(-share.log(), weights)
    return _mean(_cross_entropy(logits, target).mean(dim=(1, 2, 3)), weights) + surprise


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
    """Binary cross-entropy + 1 - soft Dice with pixels near the boundary weighing more.

    Pixel weights are scaled to a mean of 1 over the batch. With the box and `squared` it is the winners', but for the
    smoothing: theirs adds 1 / (sum + 1) to the Dice, a hundred-thousandth on a photograph.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1; the boundary is where it crosses 0.5.
        weights: each photograph's, (B,).
        band: as in `boundary_weights`; so are `weight` and `profile`.
        weight: of a pixel at the boundary.
        profile: how it falls.
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
    """What each pixel weighs: 1 far from the mask's boundary, up to `weight` near it.

    - `distance`: falls linearly from `weight` at the boundary to 1 at the band's edges, half its width away. A pixel's
      distance is Euclidean, from its center to the nearest side between two pixels of which one is in the mask. The
      image's frame is no boundary.
    - `box` (the winners' code): `weight` where the mean of the mask in a square box around the pixel is 0.01 to 0.99,
      else 1. The box's side is the band's width rounded to the nearest odd number of pixels (from an even number up).
      Outside of the image the mask is 0, so the frame is a boundary of what touches it.

    Args:
        mask: (B, 1, H, W) bool.
        band: the band's width, both sides together, as a share of H; taken as 3 pixels where it is less.
        weight: at least 1.
        profile: which of the two.

    Returns:
        (B, 1, H, W) float32.
    """
    width = max(3.0, band * mask.shape[-2])
    nearness = 1 - _distance(mask, width / 2) if profile == "distance" else _mixed(mask, 2 * int(width / 2) + 1)
    return 1 + (weight - 1) * nearness


def _mixed(mask: Tensor, side: int) -> Tensor:
    """1.0 where a box of this odd side has more than a trace both of the mask and of what isn't, else 0.0."""
    half = side // 2
    rows = functional.avg_pool2d(mask.float(), (side, 1), stride=1, padding=(half, 0))
    mean = functional.avg_pool2d(rows, (1, side), stride=1, padding=(0, half))
    return ((mean >= 0.01) & (mean <= 0.99)).float()


def _distance(mask: Tensor, reach: float) -> Tensor:
    """Each pixel's distance to the mask's boundary as a share of `reach` pixels, 1 beyond.

    It is the distance to the nearest pixel, as a square, of the other class. Squared distances are sums over the axes,
    so one pass along each finds the least (Felzenszwalb and Huttenlocher 2012). No pass looks further than `reach`.
    """
    classes = torch.stack([mask, ~mask])  # 2B1HW
    squares = 1 - classes.float()
    for axis in (-1, -2):
        squares = _nearest(squares, axis, reach)
    return squares.amax(dim=0).sqrt()  # to its own class a pixel has distance 0


def _nearest(squares: Tensor, axis: int, reach: float) -> Tensor:
    """The least along an axis of a pixel's value plus the squared distance, in units of `reach`, to its near side."""
    least, size = squares.clone(), squares.shape[axis]
    for shift in range(1, min(math.ceil(reach + 0.5), size)):
        moved = squares + ((shift - 0.5) / reach) ** 2
        for start, source in ((shift, 0), (0, shift)):
            goal = least.narrow(axis, start, size - shift)
            torch.minimum(goal, moved.narrow(axis, source, size - shift), out=goal)
    return least


def _full(logits: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All in float32, or in float64 if the logits are; weights of 1 if there are none."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    logits, target = logits.to(kind), target.to(kind)
    return logits, target, logits.new_ones(len(logits)) if weights is None else weights.to(logits)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _overlap_and_total(probability: Tensor, target: Tensor, pixels: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Each image's soft intersection, and its two areas together: (B,) each."""
    overlap = (pixels * probability * target).sum(dim=(1, 2, 3))
    total = (pixels * (probability + target)).sum(dim=(1, 2, 3))
    return overlap, total
