"""`recipes describe`: a recipe's cost, without computing anything."""

from collections.abc import Sequence

import torch

from backdrop.config import find_recipe
from backdrop.config.records import Record
from backdrop.models import build
from backdrop.models.cost import macs, parameters
from backdrop.training.lr_schedules import learning_rates, scale_at


class Description(Record):
    """Trainable parameters, multiply-accumulates of a forward pass at `input` (WxH), and each epoch's lr and size."""

    parameters: int
    macs: int
    input: str
    learning_rates: tuple[float, ...]
    sizes: tuple[str, ...]


def describe(recipe: str, overrides: Sequence[str] = ()) -> Description:
    """Describes a recipe.

    Args:
        recipe: a shipped recipe's name, or a YAML file's path.
        overrides: assignments `a.b=c`.

    Raises:
        ConfigError: if it isn't valid.
    """
    chosen = find_recipe(recipe, overrides)
    with torch.device("meta"):
        network = build(**chosen.network_options())
    scales = [scale_at(chosen.schedule, chosen.epochs, epoch) for epoch in range(chosen.epochs)]
    cost = macs(network, chosen.input.height, chosen.input.width)
    rates = tuple(learning_rates(chosen.schedule, chosen.epochs))
    return Description(
        parameters=parameters(network),
        macs=cost,
        input=chosen.input.size,
        learning_rates=rates,
        sizes=tuple("{}x{}".format(*chosen.input.scaled(scale)) for scale in scales),
    )
