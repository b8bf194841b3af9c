"""The optimizer, and how a step's gradient is gathered."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.network import Count, Rate, Share
from backdrop.config.records import Record


class Optimizer(Record):
    """The optimizer; its rate comes from the schedule. `clip_norm` bounds the gradient's L2 norm.

    `forgetful` makes it anew at each epoch, as one of the winners did.
    """

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    clip_norm: Rate | None = None
    forgetful: bool = False


class Accumulation(Record):
    """A step's gradient from several batches: their mean over images, or the sum of their means (the winners')."""

    batches: Count = 1
    reduce: Literal["mean", "sum"] = "mean"
