"""`backdrop recipes …`: list, show, copy, check and describe recipes."""

import shlex

import typer

from backdrop.cli.catalog import copy_text, list_shipped, show_text
from backdrop.cli.command import Group, command
from backdrop.cli.options import Json, NewYaml, Recipe, Set

app = typer.Typer(cls=Group, no_args_is_help=True, help="List, show, copy, check and describe recipes.")


@command(app, "backdrop recipes ls")
def ls() -> None:
    """List the shipped recipes."""
    list_shipped("recipes")


@command(app, "backdrop recipes show tiny")
def show(recipe: Recipe) -> None:
    """Print a recipe's YAML."""
    show_text("recipes", recipe)


@command(app, "backdrop recipes cp tiny mine.yaml")
def cp(recipe: Recipe, out: NewYaml) -> None:
    """Copy a recipe to a file of your own."""
    copy_text("recipes", recipe, out)
    print(f"{out}: change its name, then train it: backdrop train … --recipe {shlex.quote(str(out))}")


@command(app, "backdrop recipes validate mine.yaml --set epochs=2")
def validate(
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006  # typer wants the default itself and never changes it
) -> None:
    """Check a recipe, shipped or a file."""
    from backdrop.config import find_recipe

    print(f"{find_recipe(recipe, overrides).name} is valid")


@command(app, "backdrop recipes describe tiny --set input.size=512x512")
def describe(
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006  # as above
    as_json: Json = False,
) -> None:
    """Print a recipe's network size, cost and learning rates."""
    from backdrop.steps.describe import describe as step

    cost = step(recipe, overrides)
    if as_json:
        print(cost.model_dump_json())
        return
    print(f"{cost.parameters:,} parameters, {cost.macs / 1e9:.1f} GMAC at {cost.input}")
    print("learning rate by epoch:", *(f"{lr:g}" for lr in cost.learning_rates))
    if len(set(cost.sizes)) > 1:
        print("input size by epoch:", *cost.sizes)
