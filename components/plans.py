"""An ensemble's fold plans as one artifact: a folder with a file for each fold scheme, the ensemble's own first."""

from pathlib import Path

from backdrop.config import find_ensemble


def plan_paths(folder: str) -> list[str]:
    """The plans in a folder, in the order of the ensemble's fold schemes."""
    return [str(path) for path in sorted(Path(folder).iterdir())]


def recipe_plan(folder: str, ensemble: str, recipe: str) -> str:
    """The plan by which a recipe's members are trained; `ensemble` is the path of the ensemble's YAML."""
    config = find_ensemble(ensemble)
    rule = next(config.rule(part) for part in config.parts() if part.resolve().name == recipe)
    return plan_paths(folder)[list(config.plans()).index(rule)]
