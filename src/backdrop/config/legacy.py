"""Behavior of the winners' code of 2017 that is outdated today, for faithful copies only."""

from typing import Literal

from backdrop.config.records import Record


class Legacy(Record):
    """Switches for the behavior of 2017, all off by default.

    Attributes:
        initialization: `torch_0_2` initializes weights as torch did in 2017.
        clamp_dice: the loss `bce_dice` smooths Dice so that it can exceed 1, and clamps it to 1.
        sum_gradients: with `accumulate`, a step sums the gradients of its batches instead of averaging them.
        reset_each_epoch: each epoch starts with a new optimizer.
        hard_masks: masks are binarized at one half at each `affine`, even if it isn't applied.
        upsample_align_corners: a `unet` upsamples with torch's `align_corners`.
        output_align_corners: logits are resized to the photograph's size with `align_corners`; this costs 1e-4 of Dice.
    """

    initialization: Literal["default", "torch_0_2"] = "default"
    clamp_dice: bool = False
    sum_gradients: bool = False
    reset_each_epoch: bool = False
    hard_masks: bool = False
    upsample_align_corners: bool = False
    output_align_corners: bool = False
