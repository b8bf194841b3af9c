"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from backdrop.pipelines.package import Package

Data = Annotated[str, typer.Argument(help="Dataset: a folder or s3:// prefix with train/ and train_masks/.")]
Plan = Annotated[str, typer.Option(help="Fold plan, a CSV file that `backdrop split` wrote.")]
Plans = Annotated[
    list[str], typer.Option(help="Fold plan; repeated if recipes differ in theirs, the first is the ensemble's own.")
]
Set = Annotated[list[str], typer.Option("--set", help="Override of the recipe, such as epochs=2; may be repeated.")]
SetFile = Annotated[
    str | None, typer.Option(help="YAML of keys in place of the recipe's own, such as a search's schedule.yaml.")
]
Name = Annotated[str, typer.Option(help="Name of the registered model.")]
Members = Annotated[list[str], typer.Option(help="Members: folders or runs:/ID/member addresses, one or more.")]
# `--members A B C`: what stands behind the first is of them too.
MORE_MEMBERS = {"allow_extra_args": True}

EnsembleName = Annotated[
    str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file's path.")
]
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
    from backdrop.config.folds import as_folds
    from backdrop.pipelines.package import build
    from backdrop.pipelines.training import as_tuned, with_overrides

    return build(with_overrides(find_ensemble(ensemble), assignments), as_folds(folds) or None, as_tuned(tune), ray)
