"""`backdrop recipes …`: list, show, copy, check and describe recipes."""

from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli.catalog import copy_text, list_shipped, show_text
from backdrop.cli.options import Set

app = typer.Typer(no_args_is_help=True, help="List, show, copy, check and describe recipes.")

Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")]


@app.command()
def ls() -> None:
    """List the shipped recipes."""
    list_shipped("recipes")


@app.command()
def show(name: Recipe) -> None:
    """Print a recipe's YAML."""
    show_text("recipes", name)


@app.command()
def cp(name: Recipe, out: Annotated[Path, typer.Argument(help="The YAML file to write.")]) -> None:
    """Copy a recipe to a file of your own."""
    copy_text("recipes", name, out, f"train it: backdrop train … --recipe {out}")


@app.command()
def validate(name: Recipe, overrides: Set = []) -> None:  # noqa: B006  # as above
    """Check a recipe, shipped or a file."""
    from backdrop.config import find_recipe

    print(f"{find_recipe(name, overrides).name} is valid")


@app.command()
def describe(
    name: Recipe,
    overrides: Set = [],  # noqa: B006  # as above
    as_json: Annotated[bool, typer.Option("--json", help="Print a record for machines.")] = False,
) -> None:
    """Say what a recipe's network costs and how its learning rate goes."""
    from backdrop.steps.describe import describe as step

    found = step(name, overrides)
    if as_json:
        print(found.model_dump_json())
        return
    print(f"{found.parameters:,} parameters, {found.macs / 1e9:.1f} GMAC at {found.input}")
    print("learning rate by epoch:", *(f"{rate:g}" for rate in found.learning_rates))
