"""`backdrop ensembles …`: list, show, copy and check ensembles."""

from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli.catalog import copy_text, list_shipped, show_text

app = typer.Typer(no_args_is_help=True, help="List, show, copy and check ensembles.")

Ensemble = Annotated[str, typer.Argument(help="A shipped ensemble's name, or a YAML file.")]


@app.command()
def ls() -> None:
    """List the shipped ensembles."""
    list_shipped("ensembles")


@app.command()
def show(name: Ensemble) -> None:
    """Print an ensemble's YAML."""
    show_text("ensembles", name)


@app.command()
def cp(name: Ensemble, out: Annotated[Path, typer.Argument(help="The YAML file to write.")]) -> None:
    """Copy an ensemble to a file of your own."""
    copy_text("ensembles", name, out, f"run it: backdrop pipeline run {out} --data DATA")


@app.command()
def validate(name: Ensemble) -> None:
    """Check an ensemble and all of its recipes."""
    from backdrop.config import find_ensemble

    print(f"{find_ensemble(name).name} is valid")
