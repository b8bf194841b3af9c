"""Losses on logits; torch only."""

from torch import Tensor
from torch.nn import functional


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy + 1 - soft Dice, the mean over images of each.

    Sums are taken in float32 whatever the precision of the logits; empty and full masks are safe. Smoothed so that
    a perfect answer gives exactly Dice 1 (the winners' form exceeds 1 there and has to be clamped).

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 0..1.
    """
    logits, target = logits.float(), target.float()
    return functional.binary_cross_entropy_with_logits(logits, target) + 1 - _soft_dice(logits.sigmoid(), target)


def _soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    overlap = (probability * target).sum(dim=(1, 2, 3))
    total = (probability + target).sum(dim=(1, 2, 3))
    return ((2 * overlap + 1) / (total + 1)).mean()


LOSSES = {"bce_dice": bce_dice}
