"""Chooses the members of an ensemble that a time budget has room for, and writes their ensemble's YAML.

Recipes are chosen by their Dice out of fold; the holdout judges the ensemble, so it must not choose it. How many
members of a recipe are worth their time can't be judged out of fold, where one of them sees each photograph: as many as
fit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.common.words import count
from backdrop.config import Ensemble
from backdrop.config.catalog import require_path
from backdrop.config.records import dump_yaml
from backdrop.evaluation.contributions import set_cost
from backdrop.evaluation.records import Estimate, Speed
from backdrop.evaluation.subsets import MOST_RECIPES, Recipes
from backdrop.inference.member import Member

MARK = "# Chosen by `backdrop evaluate`"
CHOICE = "an ensemble for a budget"


@dataclass(frozen=True)
class Budget:
    """Milliseconds that networks may take for a photograph on this device, and the YAML file for the choice."""

    ms: float
    out: str

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.ms / 1000


def as_budget(budget_ms: float | None, out_ensemble: str | None) -> Budget | None:
    """A budget from two options; None without both.

    Raises:
        ConfigError: if one is missing, or the file isn't named like a YAML file.
    """
    if budget_ms is not None and out_ensemble is not None:
        require_path(out_ensemble)
        return Budget(budget_ms, out_ensemble)
    if budget_ms is not None:
        raise ConfigError("--budget-ms needs --out-ensemble", "Name the YAML file to write")
    if out_ensemble is not None:
        raise ConfigError("--out-ensemble needs --budget-ms", "Give the milliseconds that a photograph may take")
    return None


def is_choice(content: bytes) -> bool:
    """Whether a file is an ensemble for a budget, as it was written or changed since."""
    return content.startswith(MARK.encode())


def read_reasons(address: str) -> list[str]:
    """The comments of an ensemble for a budget: what was chosen, and why.

    Raises:
        StorageError: if the file can't be read.
    """
    lines = storage.read_bytes(address).decode().splitlines()
    return [line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("# "), lines)]


def require_room(budget: Budget, speed: Speed) -> None:
    """Refuses a budget that has no room for any member, or more recipes than all sets are judged of.

    Raises:
        ConfigError: in both cases.
    """
    if len(speed.seconds) > MOST_RECIPES:
        what = f"--budget-ms chooses from {MOST_RECIPES} recipes at most, not from {len(speed.seconds)}"
        raise ConfigError(what, "Name the members of fewer recipes")
    cheapest = min(speed.seconds, key=lambda name: speed.seconds[name])
    least = math.ceil(10_000 * speed.seconds[cheapest]) / 10
    if not speed.seconds[cheapest] <= budget.seconds:
        what = f"--budget-ms {budget.ms:g} is too little: a member of {cheapest} takes {least:g} on {_where(speed)}"
        raise ConfigError(what, f"Allow {least:g} or more, or train a smaller network")


def choose(
    config: Ensemble, budget: Budget, dice: Mapping[Recipes, Estimate], speed: Speed, members: Sequence[Member]
) -> str:
    """The YAML of the best ensemble for a budget that has room for a member, with the reasons in its comments.

    The arguments are those of `write_choice`, but `members` are all that there are.
    """
    recipes = best_recipes(budget.seconds, dice, speed.seconds)
    return write_choice(config, budget, dice, speed, choose_members(recipes, budget.seconds, speed.seconds, members))


def best_recipes(budget_s: float, dice: Mapping[Recipes, Estimate], seconds: Mapping[str, float]) -> Recipes:
    """The set of recipes with the highest Dice out of fold of those whose members, one each, fit into the budget.

    Ties go to the quicker, then by name.

    Args:
        budget_s: seconds per photograph, enough for one recipe.
        dice: of each set out of fold.
        seconds: of one member of each recipe.
    """
    costs = {some: set_cost(some, seconds) for some in dice}
    fitting = [some for some in dice if costs[some] <= budget_s]
    return min(fitting, key=lambda some: (-dice[some].dice, costs[some], some))


def choose_members(
    recipes: Recipes, budget_s: float, seconds: Mapping[str, float], members: Sequence[Member]
) -> list[Member]:
    """As many members of these recipes as fit into the budget, one of each at least: in turn, quick recipes first.

    Args:
        recipes: of which one member each fits.
        budget_s: seconds per photograph.
        seconds: of one member of each recipe.
        members: to choose from; of each recipe, those of the first folds are chosen.
    """
    folds = sorted(members, key=lambda member: (member.record.fold or 0, member.name))
    waiting = {name: [member for member in folds if member.record.recipe == name] for name in recipes}
    order = sorted(recipes, key=lambda name: (seconds[name], name))
    chosen = [waiting[name].pop(0) for name in order]
    for _ in range(len(members)):
        for name in order:
            spent = math.fsum(seconds[member.record.recipe] for member in chosen)
            if waiting[name] and spent + seconds[name] <= budget_s:
                chosen.append(waiting[name].pop(0))
    return sorted(chosen, key=lambda member: member.name)


def write_choice(
    config: Ensemble, budget: Budget, dice: Mapping[Recipes, Estimate], speed: Speed, members: Sequence[Member]
) -> str:
    """The YAML of the chosen recipes' ensemble, below comments that say what was chosen and why.

    Args:
        config: the ensemble to choose from, resolved.
        budget: what its networks may take.
        dice: of each set of recipes out of fold.
        speed: the recipes' seconds.
        members: the chosen ones.
    """
    recipes = tuple(sorted({member.record.recipe for member in members}))
    whole = max(dice, key=len)
    fitting = sum(set_cost(some, speed.seconds) <= budget.seconds for some in dice)
    numbers = {name: sum(member.record.recipe == name for member in members) for name in recipes}
    times = ", ".join(f"{name} {number} x {1000 * speed.seconds[name]:.1f}" for name, number in numbers.items())
    spent = 1000 * math.fsum(speed.seconds[member.record.recipe] for member in members)
    best = f"the highest of {count(fitting, 'set')} of recipes that fit"
    gone = [f"left out {', '.join(sorted({*whole} - {*recipes}))}: with all recipes, it is {dice[whole].dice:.5f}"]
    gone = gone if recipes != whole else []
    if any(operation.kind == "best_members" for operation in config.postprocessing):
        gone.append("left out best_members: it was chosen among all recipes")
    reasons = [
        f"{MARK} --budget-ms {budget.ms:g} from the members of ensemble {config.name}",
        f"recipes {', '.join(recipes)}: {dice[recipes].dice:.5f} Dice out of fold, {best}",
        *gone,
        f"networks take {spent:.1f} ms a photograph on {_where(speed)}: {times}",
        f"members {' '.join(member.name for member in members)}: as many as fit, which can't be judged out of fold",
        "evaluate these members with this file, then register them",
    ]
    return "\n# ".join(reasons) + "\n" + dump_yaml(_ensemble(config, budget, recipes))


def _ensemble(config: Ensemble, budget: Budget, recipes: Recipes) -> Ensemble:
    """The ensemble of some of its recipes. What was learned or chosen among all of them is left out."""
    chosen = {
        "name": f"{config.name.removesuffix('-budget')[:112]}-budget",
        "description": f"Recipes of {config.name} for {budget.ms:g} ms a photograph",
        "members": tuple(part for part in config.parts() if part.resolve().name in recipes),
        "postprocessing": tuple(operation for operation in config.postprocessing if operation.kind != "best_members"),
        "early_exit": config.early_exit if len(recipes) > 1 else None,
    }
    return config.model_copy(update=chosen).learned(None, None).resolve()


def _where(speed: Speed) -> str:
    return f"{speed.device} with {count(speed.threads, 'thread')}"
