"""What the winners' code of 2017 did otherwise than is right today; only faithful copies of it use this."""

from typing import Literal

from backdrop.config.records import Record


class Legacy(Record):
    """Nothing, unless a recipe says otherwise.

    Attributes:
        initialization: `torch_0_2` draws first weights as torch did in 2017.
        clamp_dice: the loss `bce_dice` smooths Dice so that it exceeds 1 near perfection, and cuts it there.
        sum_gradients: with `accumulate`, a step adds up the gradients of its batches; it doesn't average them.
        reset_each_epoch: each epoch begins with a new optimizer.
        hard_masks: masks are cut at one half after each `affine`, in samples that it leaves alone too.
        upsample_align_corners: a `unet` upsamples by the pixels at the corners, not by the pixels' centers.
        output_align_corners: so are logits resized to the photograph's size; it costs 1e-4 of Dice.
    """

    initialization: Literal["default", "torch_0_2"] = "default"
    clamp_dice: bool = False
    sum_gradients: bool = False
    reset_each_epoch: bool = False
    hard_masks: bool = False
    upsample_align_corners: bool = False
    output_align_corners: bool = False
