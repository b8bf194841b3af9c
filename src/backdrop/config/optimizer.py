"""The optimizer of a recipe."""

from typing import Literal

from backdrop.config.network import NonNegative, Positive, Share
from backdrop.config.records import Record


class Optimizer(Record):
    """The optimizer; its learning rate comes from the schedule. `clip_norm` is the maximum L2 norm of the gradient."""

    kind: Literal["adam", "adamw", "sgd", "rmsprop"] = "adamw"
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.9
    clip_norm: Positive | None = None
