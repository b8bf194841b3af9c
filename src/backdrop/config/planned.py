"""The members that a run of the pipeline trains."""

from collections.abc import Sequence
from dataclasses import dataclass

from backdrop.common.errors import ConfigError
from backdrop.config.ensemble import Ensemble
from backdrop.config.folds import Rule
from backdrop.config.recipe import Recipe


@dataclass(frozen=True)
class Planned:
    """A member that the pipeline trains; `rule` is the fold scheme of its recipe."""

    recipe: Recipe
    fold: int
    rule: Rule

    @property
    def name(self) -> str:
        """`<recipe>-<fold>`."""
        return f"{self.recipe.name}-{self.fold}"

    @property
    def task(self) -> str:
        """Its task's name."""
        return f"train-{self.name}"


def planned(ensemble: Ensemble, folds: Sequence[int] | None = None) -> list[Planned]:
    """The members of an ensemble, of all folds or of some; a recipe has as many folds as its own scheme.

    Raises:
        ConfigError: if none of its schemes has such a fold.
    """
    rules = [(part.resolve(), ensemble.rule(part)) for part in ensemble.parts()]
    known = range(max(rule.folds for _, rule in rules))
    for fold in folds or ():
        if fold not in known:
            raise ConfigError(f"Ensemble {ensemble.name} has no fold {fold}", f"Its folds are 0 to {len(known) - 1}")
    chosen = sorted(set(folds)) if folds else known
    return [Planned(recipe, fold, rule) for recipe, rule in rules for fold in chosen if fold < rule.folds]
