"""`backdrop ensembles …`: list, show, copy and check ensembles."""

import shlex

import typer

from backdrop.cli.catalog import copy_text, list_shipped, show_text
from backdrop.cli.command import Group, command
from backdrop.cli.options import EnsembleName, NewYaml

app = typer.Typer(cls=Group, no_args_is_help=True, help="List, show, copy and check ensembles.")


@command(app, "backdrop ensembles ls")
def ls() -> None:
    """List the shipped ensembles."""
    list_shipped("ensembles")


@command(app, "backdrop ensembles show demo")
def show(ensemble: EnsembleName) -> None:
    """Print an ensemble's YAML."""
    show_text("ensembles", ensemble)


@command(app, "backdrop ensembles cp demo mine.yaml")
def cp(ensemble: EnsembleName, out: NewYaml) -> None:
    """Copy an ensemble to a file of your own."""
    from backdrop.config import find_text
    from backdrop.config.records import parse_yaml

    members = parse_yaml(find_text("ensembles", ensemble).text, ensemble).get("members")
    copy_text("ensembles", ensemble, out)
    file = shlex.quote(str(out))
    if members == [{"recipe": "student"}]:  # which an ensemble teaches, and no pipeline
        use = f"train its network: backdrop distill …, and judge it: backdrop evaluate … --ensemble {file}"
    else:
        use = f"run it: backdrop pipeline run {file} --data DATA"
    print(f"{out}: change its name, then {use}")


@command(app, "backdrop ensembles validate mine.yaml")
def validate(ensemble: EnsembleName) -> None:
    """Check an ensemble and all of its recipes."""
    from backdrop.config import find_ensemble

    print(f"{find_ensemble(ensemble).name} is valid")
