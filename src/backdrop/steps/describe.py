"""`recipes describe`: what a recipe costs, without computing anything."""

from collections.abc import Sequence

import torch

from backdrop.config import find_recipe
from backdrop.config.records import Record
from backdrop.models import build
from backdrop.models.cost import macs, parameters
from backdrop.training.lr_schedules import learning_rates


class Description(Record):
    """Trained numbers, multiply-accumulates of a forward pass at `input` (WxH), and the rate of every epoch."""

    parameters: int
    macs: int
    input: str
    learning_rates: tuple[float, ...]


def describe(recipe: str, overrides: Sequence[str] = ()) -> Description:
    """Describes a recipe.

    Args:
        recipe: a shipped recipe's name, or a YAML file's path.
        overrides: `a.b=c` for it.

    Raises:
        ConfigError: if it isn't valid.
    """
    found = find_recipe(recipe, overrides)
    with torch.device("meta"):
        network = build(**found.network_options())
    cost = macs(network, found.input.height, found.input.width)
    rates = tuple(learning_rates(found.schedule, found.epochs))
    return Description(parameters=parameters(network), macs=cost, input=found.input.size, learning_rates=rates)
