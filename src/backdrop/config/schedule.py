"""Schedules: a sequence of phases with their learning rates, each optionally with its size, augmentation, optimizer.

If the phases' epochs don't add up to the recipe's, each phase is scaled in proportion and keeps its shape.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from backdrop.common.words import count
from backdrop.config.augmentation import Change
from backdrop.config.network import Count, Positive, Share
from backdrop.config.optimizer import Optimizer
from backdrop.config.records import Record

Factor = Annotated[float, Field(gt=0, lt=1)]


class _Phase(Record):
    """`augmentation` and `optimizer` replace earlier ones from this phase on; a new optimizer starts without state.

    `scale` is the share of the input's width and height that this phase alone trains at; validation is at full size.
    """

    epochs: Count
    scale: Annotated[float, Field(gt=0, le=1, exclude_if=lambda scale: scale == 1)] = 1.0
    augmentation: tuple[Change, ...] | None = None
    optimizer: Optimizer | None = None


class Constant(_Phase):
    """A constant learning rate."""

    kind: Literal["constant"]
    lr: Positive


class Step(_Phase):
    """`lr`, multiplied by `factor` every `every` epochs."""

    kind: Literal["step"]
    lr: Positive
    factor: Factor = 0.5
    every: Count


class Exponential(_Phase):
    """From `lr` to `final`, multiplied by a constant factor every epoch."""

    kind: Literal["exponential"]
    lr: Positive
    final: Positive


class Plateau(_Phase):
    """`lr`, multiplied by `factor` whenever the out-of-fold Dice hasn't risen for more than `patience` epochs.

    Like torch's ReduceLROnPlateau with a threshold of 0, from the phase's first epoch on. `patience` scales with the
    phase.
    """

    kind: Literal["plateau"]
    lr: Positive
    factor: Factor = 0.5
    patience: Count = 2


class Cycle(_Phase):
    """Repeats the learning rates `lrs`, each for one epoch or for its number of epochs in `lengths`.

    The end of the phase may cut the last round short. If the phase is scaled, its complete rounds are scaled instead;
    a phase that is too short for all learning rates has fewer rounds.
    """

    kind: Literal["cycle"]
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)]
    lengths: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _a_length_each(self) -> "Cycle":
        if self.lengths and len(self.lengths) != len(self.lrs):
            lengths, rates = count(len(self.lengths), "length"), count(len(self.lrs), "learning rate")
            raise ValueError(f"{rates} but {lengths}; write one length for each learning rate, or none")
        return self


class Cosine(_Phase):
    """Half a cosine from `lr` down to `final`."""

    kind: Literal["cosine"]
    lr: Positive
    final: Positive


class Restarts(_Phase):
    """Repeats half a cosine from `lr` to `final` (SGDR: Loshchilov and Hutter 2016, arXiv:1608.03983).

    The first round takes `cycle` epochs, each later one `growth` times as many. An epoch uses the learning rate at its
    start, so `final` isn't quite reached. Cutting and scaling are as for `cycle`, with at least two epochs per round.
    """

    kind: Literal["restarts"]
    lr: Positive
    final: Positive
    cycle: Count
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


class OneCycle(_Phase):
    """From `start` up to `lr` in the first `warmup` share, then down to `final`, by cosines, like torch's OneCycleLR.

    Source: Smith 2018, arXiv:1803.09820.
    """

    kind: Literal["one_cycle"]
    lr: Positive
    start: Positive
    final: Positive
    warmup: Share = 0.3


Phase = Annotated[
    Constant | Step | Exponential | Plateau | Cycle | Cosine | Restarts | OneCycle, Field(discriminator="kind")
]
