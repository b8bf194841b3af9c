"""Options that several commands of `python -m pipelines` have."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from backdrop.pipelines.package import Package

Name = Annotated[str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file's path.")]
FoldList = Annotated[str, typer.Option("--folds", metavar="0,1", help="Only the members of these folds.")]
Tune = Annotated[str, typer.Option("--tune", help="Search each recipe's schedule first: off, fast or full.")]
Ray = Annotated[bool, typer.Option("--ray", help="Search on a Ray cluster that KubeRay makes.")]
Assignments = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set in every recipe: epochs=2.")]


def package_of(ensemble: str, folds: str, assignments: list[str], tune: str, ray: bool) -> "Package":
    """Compiles what the options say.

    Raises:
        ConfigError: if there is no such ensemble, fold, key or budget.
    """
    from backdrop.config import find_ensemble
    from backdrop.data.folds import as_folds
    from backdrop.pipelines.package import build
    from backdrop.pipelines.training import as_tuned, with_overrides

    return build(with_overrides(find_ensemble(ensemble), assignments), as_folds(folds) or None, as_tuned(tune), ray)
