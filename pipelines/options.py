"""Options that several commands of `python -m pipelines` have."""

from typing import TYPE_CHECKING, Annotated

import typer

from backdrop.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.package import Package

Name = Annotated[str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file's path.")]
FoldList = Annotated[str, typer.Option("--folds", metavar="0,1", help="Only the members of these folds.")]
Assignments = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set in every recipe: epochs=2.")]


def folds_of(text: str) -> list[int] | None:
    """The folds of `0,1`; None for all.

    Raises:
        ConfigError: if it isn't of that form.
    """
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise ConfigError(f"--folds {text} is no list of folds", "Write it as --folds 0,1") from error


def package_of(ensemble: str, folds: str, assignments: list[str]) -> "Package":
    """Compiles what the options say.

    Raises:
        ConfigError: if there is no such ensemble, fold or key.
    """
    from backdrop.recipe import find_ensemble
    from pipelines.package import build
    from pipelines.training import with_overrides

    return build(with_overrides(find_ensemble(ensemble), assignments), folds_of(folds))
