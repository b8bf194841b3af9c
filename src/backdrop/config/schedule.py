"""Schedules: phases in turn, each with its learning rates and, if need be, its own augmentation and optimizer.

Where the phases' epochs don't add up to the recipe's, each is stretched or shrunk in proportion and keeps its shape.
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
    """`augmentation` and `optimizer` replace the recipe's from here to the next phase's; an optimizer begins empty."""

    epochs: Count
    augmentation: tuple[Change, ...] | None = None
    optimizer: Optimizer | None = None


class Constant(_Phase):
    """One learning rate."""

    kind: Literal["constant"]
    lr: Positive


class Step(_Phase):
    """`lr`, multiplied by `factor` after each `every` epochs."""

    kind: Literal["step"]
    lr: Positive
    factor: Factor = 0.5
    every: Count


class Exponential(_Phase):
    """From `lr` to `final`, by the same factor each epoch."""

    kind: Literal["exponential"]
    lr: Positive
    final: Positive


class Plateau(_Phase):
    """`lr`, multiplied by `factor` whenever the out-of-fold Dice hasn't risen for more than `patience` epochs.

    As torch's ReduceLROnPlateau with a threshold of 0, looking at no epoch before the phase. A stretched phase is as
    much more patient.
    """

    kind: Literal["plateau"]
    lr: Positive
    factor: Factor = 0.5
    patience: Count = 2


class Cycle(_Phase):
    """The `lrs` in turn, again and again; each for one epoch, or for as many as `lengths` says.

    The last round may be cut short by the phase's end. At another length of the phase, its whole rounds are stretched
    or shrunk instead, a shorter phase has fewer of them once there is no epoch for each rate.
    """

    kind: Literal["cycle"]
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)]
    lengths: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _a_length_each(self) -> "Cycle":
        if self.lengths and len(self.lengths) != len(self.lrs):
            given, wanted = count(len(self.lengths), "length"), count(len(self.lrs), "learning rate")
            raise ValueError(f"{wanted} for {given}; give one to each, or none")
        return self


class Cosine(_Phase):
    """Half a cosine from `lr` down to `final`."""

    kind: Literal["cosine"]
    lr: Positive
    final: Positive


class Restarts(_Phase):
    """Half a cosine from `lr` to `final` again and again (SGDR: Loshchilov and Hutter 2016, arXiv:1608.03983).

    The first takes `cycle` epochs, each later one `growth` times as many. An epoch has the learning rate of its
    beginning, so `final` is approached, not reached. The phase's end and another length are as for `cycle`, with two
    epochs or more to a round.
    """

    kind: Literal["restarts"]
    lr: Positive
    final: Positive
    cycle: Count
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


class OneCycle(_Phase):
    """From `start` to `lr` in the first `warmup` share, then down to `final`, by cosines, as torch's OneCycleLR.

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
