"""Learns out of fold when the first members of an ensemble are enough, and measures what that saves and costs.

The holdout is not used to learn: it judges the ensemble, so it must not choose the ensemble's rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backdrop.config import ExitRule
from backdrop.evaluation.metrics import FEW_OBJECTS, bootstrap, object_means, spread
from backdrop.evaluation.predicted_dice import Known
from backdrop.evaluation.records import Exit, Saving, Score
from backdrop.inference.ensemble import EnsembleModel, prediction_cost

STEPS = 20  # limits that are tried: with the lowest, a twentieth of the photographs stops at the first members

# The recipes whose members are first.
First = tuple[str, ...]
# A rule for each fold, and by None the one for the holdout and for new photographs.
Rules = Mapping[int | None, ExitRule | None]


@dataclass(frozen=True)
class Trial:
    """A photograph by the first members alone: the unconfidence of each by itself, pooled, and the Dice of their mask.

    `expected` is the Dice that their mean expects of that mask. The unconfidence is infinite, and the rest that of all
    members, if the photograph is so large that it is summed in parts: in prediction, all members see it.
    """

    doubt: float
    dice: float
    expected: float


@dataclass(frozen=True)
class Judged:
    """A photograph's score by all members that may judge it, and a trial of each set of first ones that has some.

    `expected` is the Dice that all members' mean expects of its mask.
    """

    score: Score
    trials: Mapping[First, Trial]
    expected: float

    def stopped(self, rule: ExitRule | None) -> Trial | None:
        """The trial that decides by a rule; None if all members see the photograph."""
        trial = self.trials.get(rule.first) if rule else None
        return trial if rule and trial and trial.doubt <= rule.unconfidence_above else None

    def known(self, rule: ExitRule | None) -> Known:
        """What a rule leads to for the prediction of Dice."""
        trial = self.stopped(rule)
        return Known(self.score.object, (trial or self).expected, trial.dice if trial else self.score.dice)

    def by(self, rule: ExitRule | None) -> Score:
        """The score that a rule leads to."""
        trial = self.stopped(rule)
        return replace(self.score, dice=trial.dice) if trial else self.score


def first_costs(model: EnsembleModel) -> dict[First, float]:
    """What may be first, with its share of all members' multiply-accumulates.

    Each recipe may be, or the cheapest two, three and so on together; empty if there is only one recipe. Recipes are
    ordered by the cost of one member; ties go by name.
    """
    costs = {member.record.recipe: prediction_cost(member.recipe) for member in model.members}
    names = sorted(costs, key=lambda name: (costs[name], name))
    counts = [member.record.recipe for member in model.members]
    firsts = [*((name,) for name in names), *(tuple(names[:end]) for end in range(2, len(names)))]
    cost = {first: sum(costs[name] * counts.count(name) for name in first) for first in (*firsts, tuple(names))}
    return {first: cost[first] / cost[tuple(names)] for first in firsts} if len(names) > 1 else {}


def learn(judged: Sequence[Judged], costs: Mapping[First, float], max_loss: float) -> ExitRule | None:
    """The rule that saves most of those whose loss of Dice has a 95 % interval that ends at `max_loss` or below.

    Args:
        judged: out-of-fold photographs, each judged by a member of every recipe.
        costs: as from `first_costs`.
        max_loss: mean over objects, 0..1.

    Returns:
        The rule; None if none keeps within `max_loss`, or there are fewer than 12 objects.
    """
    if len({one.score.object for one in judged}) < FEW_OBJECTS:
        return None
    best: tuple[float, ExitRule | None] = (0.0, None)
    for first in costs:
        for limit in _limits([one.trials[first].doubt for one in judged]):
            rule = ExitRule(first=first, unconfidence_above=limit)
            saved = _mean(object_means(_saved(judged, rule, costs)))
            if saved <= best[0]:
                break  # and a lower limit saves less
            if bootstrap(object_means(_lost(judged, rule))).high <= max_loss:
                best = saved, rule
    return best[1]


def fit(judged: Sequence[Judged], costs: Mapping[First, float], max_loss: float) -> tuple[Exit, Rules]:
    """Learns a rule out of fold, and measures it on photographs that it wasn't learned on.

    For each fold, a rule is learned on the other folds' photographs; those rules together say what such a rule saves
    and costs. If they save nothing, or cost more than `max_loss` after all, there is no rule.

    Args:
        judged: all photographs. Only out-of-fold ones that members of all recipes judged count, of which there must be
            some; on the holdout, what the rule does to the whole ensemble is measured.
        costs: as from `first_costs`.
        max_loss: mean over objects, 0..1.

    Returns:
        The rule and what it saves and costs; and the rules by fold, each None if there is no rule.
    """
    recipes = {recipe for one in judged for recipe in one.score.recipes}
    known = [one for one in judged if one.score.fold is not None and len(one.score.recipes) == len(recipes)]
    held = [one for one in judged if one.score.fold is None]
    folds = sorted({one.score.fold for one in judged if one.score.fold is not None})
    rules: dict[int | None, ExitRule | None] = {
        fold: learn([one for one in known if one.score.fold != fold], costs, max_loss) for fold in folds
    }
    oof = _saving(known, rules, costs)
    holds = oof.stopped > 0 and oof.lost.mean <= max_loss
    rule = learn(known, costs, max_loss) if holds else None
    rules = {**rules, None: rule} if rule else dict.fromkeys([*folds, None])
    return Exit(max_loss=max_loss, rule=rule, oof=oof, holdout=_saving(held, rules, costs) if held else None), rules


def _limits(doubts: Sequence[float]) -> list[float]:
    """The limits to try, highest first: the doubt of every twentieth photograph."""
    finite = [doubt for doubt in doubts if math.isfinite(doubt)]
    shares = np.arange(1, STEPS + 1) / STEPS
    limits = {float(limit) for limit in np.quantile(finite, shares, method="lower")} if finite else set()
    return sorted(limits, reverse=True)


def _saving(judged: Sequence[Judged], rules: Rules, costs: Mapping[First, float]) -> Saving:
    rows = [(one, rules[one.score.fold]) for one in judged]
    return Saving(
        objects=len({one.score.object for one in judged}),
        images=len(judged),
        stopped=sum(one.stopped(rule) is not None for one, rule in rows),
        saved=spread(object_means(value for one, rule in rows for value in _saved([one], rule, costs))),
        lost=spread(object_means(value for one, rule in rows for value in _lost([one], rule))),
    )


def _saved(judged: Sequence[Judged], rule: ExitRule | None, costs: Mapping[First, float]) -> list[tuple[str, float]]:
    """The share of multiply-accumulates that a rule saves on each photograph, with its object."""
    return [(one.score.object, 1 - costs[rule.first] if rule and one.stopped(rule) else 0.0) for one in judged]


def _lost(judged: Sequence[Judged], rule: ExitRule | None) -> list[tuple[str, float]]:
    """The Dice that a rule costs each photograph, with its object; negative if the first members are better."""
    return [(one.score.object, one.score.dice - one.by(rule).dice) for one in judged]


def _mean(means: Mapping[str, float]) -> float:
    return math.fsum(means.values()) / len(means)
