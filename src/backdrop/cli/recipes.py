"""`backdrop recipes …`: list, show, copy, check and describe recipes."""

from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli.options import Set

app = typer.Typer(no_args_is_help=True, help="List, show, copy, check and describe recipes.")


@app.command()
def ls() -> None:
    """List the shipped recipes, a name first on each line."""
    from backdrop.config import find_recipe, shipped

    for name in shipped("recipes"):
        print(f"{name:24} {find_recipe(name).description}")


@app.command()
def show(name: str) -> None:
    """Print a recipe's YAML."""
    from backdrop.config import recipe_text

    print(recipe_text(name), end="")


@app.command()
def cp(name: str, out: Path) -> None:
    """Copy a recipe to a file of your own."""
    from backdrop.common.errors import StorageError
    from backdrop.common.storage import write_bytes
    from backdrop.config import recipe_text

    if out.exists():
        raise StorageError(f"{out} exists", "Name another file")
    write_bytes(out, recipe_text(name).encode())
    print(f"{out}: give it a name of its own, then train it by its path")


@app.command()
def validate(name: str, overrides: Set = []) -> None:  # noqa: B006  # as above
    """Check a recipe, shipped or a file."""
    from backdrop.config import find_recipe

    print(f"{find_recipe(name, overrides).name} is valid")


@app.command()
def describe(
    name: str,
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
