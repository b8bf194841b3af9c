"""What members and recipes add to their ensemble, and which recipes are worth their cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from backdrop.evaluation.metrics import estimate_values, object_means, point_estimate, spread
from backdrop.evaluation.records import Contribution, Estimate, RecipeSet, Score
from backdrop.evaluation.subsets import Recipes, Subsets
from backdrop.inference.ensemble import EnsembleModel, prediction_cost


def contributions(
    scores: Sequence[Score], subsets: Mapping[str, Subsets], model: EnsembleModel
) -> tuple[Contribution, ...]:
    """What each member adds on the holdout, and each recipe out of fold; empty where there is only one.

    Args:
        scores: the images'.
        subsets: their Dice by parts of the ensemble.
        model: the ensemble.
    """
    costs = recipe_costs(model)
    held = [score for score in scores if score.fold is None]
    folded = [score for score in scores if score.fold is not None]
    members = {member.name: costs[member.record.recipe] for member in model.members}
    return (
        *(_contribution("oof", name, costs[name], folded, subsets) for name in _names(folded, subsets)),
        *(_contribution("holdout", name, members[name], held, subsets) for name in _names(held, subsets)),
    )


def recipe_costs(model: EnsembleModel) -> dict[str, int]:
    """Multiply-accumulates of one member of each recipe for one photograph, by recipe, sorted."""
    recipes = {member.record.recipe: member.recipe for member in model.members}
    return {name: prediction_cost(recipes[name]) for name in sorted(recipes)}


def set_dice(scores: Sequence[Score], subsets: Mapping[str, Subsets]) -> dict[Recipes, Estimate]:
    """The Dice of each set of recipes out of fold, on photographs that members of all recipes may judge.

    Empty if there is no such photograph. There are no intervals.
    """
    folded = [(score.object, subsets[score.image].sets) for score in scores if score.fold is not None]
    whole = tuple(sorted({name for _, sets in folded for some in sets for name in some}))
    known = [(name, sets) for name, sets in folded if whole in sets]
    shared = known[0][1] if known else ()
    return {some: point_estimate((name, sets[some]) for name, sets in known) for some in shared}


def compare_sets(dice: Mapping[Recipes, Estimate], model: EnsembleModel) -> tuple[RecipeSet, ...]:
    """The best sets of recipes for their multiply-accumulates, each recipe alone, all but one, and all; cheapest first.

    Empty if there is only one recipe.
    """
    costs = recipe_costs(model)
    best = front({some: found.dice for some, found in dice.items()}, costs)
    sizes = {1, len(costs) - 1, len(costs)}
    shown = [some for some in dice if some in best or len(some) in sizes] if len(costs) > 1 else []
    found = [RecipeSet(recipes=s, cost=round(set_cost(s, costs)), dice=dice[s], best=s in best) for s in shown]
    return tuple(sorted(found, key=lambda one: (one.cost, one.recipes)))


def front(dice: Mapping[Recipes, float], costs: Mapping[str, float]) -> list[Recipes]:
    """The sets of recipes of which no cheaper, or equally cheap, one has a Dice as high; cheapest first.

    Args:
        dice: of each set.
        costs: of one member of each recipe, in any unit.
    """
    found: list[Recipes] = []
    for some in sorted(dice, key=lambda some: (set_cost(some, costs), -dice[some], some)):
        if not found or dice[some] > dice[found[-1]]:
            found.append(some)
    return found


def set_cost(recipes: Recipes, costs: Mapping[str, float]) -> float:
    """The cost of one member of each recipe."""
    return math.fsum(costs[name] for name in recipes)


def _names(scores: Sequence[Score], subsets: Mapping[str, Subsets]) -> list[str]:
    return sorted({name for score in scores for name in subsets[score.image].without})


def _contribution(
    part: Literal["holdout", "oof"], name: str, cost: int, scores: Sequence[Score], subsets: Mapping[str, Subsets]
) -> Contribution:
    both = [
        (score.object, subsets[score.image].whole, rest)
        for score in scores
        if (rest := _rest(score, subsets[score.image], name)) is not None
    ]
    added = spread(object_means((object_, whole - rest) for object_, whole, rest in both))
    without = estimate_values((object_, rest) for object_, _, rest in both)
    return Contribution(part=part, name=name, cost=cost, without=without, added=added)


def _rest(score: Score, found: Subsets, name: str) -> float | None:
    """The Dice of all but a member or a recipe; None if it alone judges the photograph."""
    if name in found.without:
        return found.without[name]
    return None if name in score.recipes else found.whole
