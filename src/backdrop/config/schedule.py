"""Schedules: phases one after another, each with its rates and, if need be, its own augmentation and optimizer.

Where the phases' epochs don't add up to the recipe's, each is stretched or shrunk in proportion and keeps its shape.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from backdrop.common.words import count
from backdrop.config.augmentation import Change
from backdrop.config.network import Count, Rate, Share
from backdrop.config.optimizer import Optimizer
from backdrop.config.records import Record

Factor = Annotated[float, Field(gt=0, lt=1)]


class _Phase(Record):
    """`augmentation` and `optimizer` replace the recipe's from here to the next phase's; an optimizer begins anew."""

    epochs: Count
    augmentation: tuple[Change, ...] | None = None
    optimizer: Optimizer | None = None


class Constant(_Phase):
    """One rate."""

    kind: Literal["constant"]
    rate: Rate


class Step(_Phase):
    """`rate`, multiplied by `factor` after each `every` epochs."""

    kind: Literal["step"]
    rate: Rate
    factor: Factor = 0.5
    every: Count


class Exponential(_Phase):
    """From `rate` to `final`, by the same factor each epoch."""

    kind: Literal["exponential"]
    rate: Rate
    final: Rate


class Plateau(_Phase):
    """`rate`, multiplied by `factor` whenever the out-of-fold Dice hasn't risen for more than `patience` epochs.

    As torch's ReduceLROnPlateau with a threshold of 0, looking at no epoch before the phase. A stretched phase is as
    much more patient.
    """

    kind: Literal["plateau"]
    rate: Rate
    factor: Factor = 0.5
    patience: Count = 2


class Cycle(_Phase):
    """The `rates` in turn, again and again; each for one epoch, or for as many as `lengths` says.

    The last round may be cut short by the phase's end. At another length of the phase, its whole rounds are stretched
    or shrunk instead, a shorter phase has fewer of them once there is no epoch for each rate.
    """

    kind: Literal["cycle"]
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    lengths: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _a_length_each(self) -> "Cycle":
        if self.lengths and len(self.lengths) != len(self.rates):
            raise ValueError(
                f"{count(len(self.rates), 'rate')} for {count(len(self.lengths), 'length')}; give one to each, or none"
            )
        return self


class Cosine(_Phase):
    """Half a cosine from `rate` down to `final`."""

    kind: Literal["cosine"]
    rate: Rate
    final: Rate


class Restarts(_Phase):
    """Half a cosine from `rate` to `final` again and again (SGDR: Loshchilov and Hutter 2016, arXiv:1608.03983).

    The first takes `cycle` epochs, each later one `growth` times as many. An epoch's rate is that at its beginning, so
    `final` is approached, not reached. The phase's end and another length are as for `cycle`, with two epochs or more
    to a round.
    """

    kind: Literal["restarts"]
    rate: Rate
    final: Rate
    cycle: Count
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


class OneCycle(_Phase):
    """From `start` to `rate` in the first `warmup` share, then down to `final`, by cosines, as torch's OneCycleLR.

    Source: Smith 2018, arXiv:1803.09820.
    """

    kind: Literal["one-cycle"]
    rate: Rate
    start: Rate
    final: Rate
    warmup: Share = 0.3


Phase = Annotated[
    Constant | Step | Exponential | Plateau | Cycle | Cosine | Restarts | OneCycle, Field(discriminator="kind")
]
