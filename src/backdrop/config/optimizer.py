"""The optimizer."""

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.network import Positive, Share
from backdrop.config.records import Record


class Optimizer(Record):
    """The optimizer; its learning rate comes from the schedule. `clip_norm` bounds the gradient's L2 norm."""

    kind: Literal["adam", "adamw", "sgd", "rmsprop"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    clip_norm: Positive | None = None
