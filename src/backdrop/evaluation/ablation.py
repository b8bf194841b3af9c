"""Measures on out-of-fold photographs whether a post-processing operation helps.

The holdout is not used: it judges the ensemble, so it must not choose the ensemble's operations.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backdrop.common.errors import MemberError
from backdrop.config.postprocessing import BestMembers, Operation
from backdrop.data.folds import Row
from backdrop.data.masks import Mask, dice
from backdrop.evaluation.metrics import FEW_OBJECTS, Interval, bootstrap, object_means
from backdrop.evaluation.records import Effect, Score
from backdrop.inference.postprocessing import MeanOf, Probability, apply, repair

ALL = "all"


@dataclass(frozen=True)
class Case:
    """A photograph as predicted by the members that did not train on it.

    `probability` is their mean (H, W), `mean_of` returns the mean of some recipes' members, `truth` is (H, W).
    """

    row: Row
    truth: Mask
    probability: Probability
    mean_of: MeanOf


@dataclass
class _Trial:
    """Results of operations so far: (object, difference of Dice) per photograph, and the number of changed masks."""

    name: str
    differences: list[tuple[str, float]] = field(default_factory=list)
    changed: int = 0


def effects(cases: Iterable[Case], operations: Sequence[Operation], scores: Sequence[Score] = ()) -> tuple[Effect, ...]:
    """Measures each operation alone, in order, and then all together, with one photograph in memory at a time.

    Args:
        cases: out-of-fold photographs.
        operations: the ensemble's operations.
        scores: the scores that `best_members` was chosen from; needed only with that operation. For each fold it is
            chosen again without that fold's photographs, so that it isn't judged on the data that chose it.

    Raises:
        ValueError: if there are no photographs, or one belongs to the holdout.
        MemberError: if `best_members` can't be chosen without one of the folds.
    """
    trials = [_Trial(name) for name in (*(operation.kind for operation in operations), ALL)]
    chains: dict[int, list[Sequence[Operation]]] = {}
    for case in cases:
        fold = case.row.fold
        if fold is None:
            raise ValueError(f"{case.row.image} belongs to the holdout, which must not choose operations")
        if fold not in chains:
            unseen = [_unseen(operation, scores, fold) for operation in operations]
            chains[fold] = [*((operation,) for operation in unseen), unseen]
        _try(case, trials, chains[fold])
    return tuple(map(_effect, trials))


def choose_best(scores: Iterable[Score], count: int, unconfidence_above: float) -> BestMembers:
    """The `count` best recipes on each view, out of fold; they predict the most uncertain photographs.

    Recipes are compared on photographs that all of them scored, by the mean over objects; ties go by name. Scores of
    the holdout are ignored.

    Raises:
        MemberError: if no photograph was scored by all recipes.
    """
    folded = [score for score in scores if score.fold is not None]
    names = sorted({name for score in folded for name in score.recipes})
    common = [score for score in folded if len(score.recipes) == len(names)]
    if not common:
        what = "best_members can't be chosen: no photograph was scored out of fold by all recipes"
        raise MemberError(what, "Evaluate members of each recipe on at least two folds")
    views = sorted({score.view for score in common})
    recipes = {view: _best([score for score in common if score.view == view], names, count) for view in views}
    return BestMembers(kind="best_members", unconfidence_above=unconfidence_above, recipes=recipes)


def _best(scores: Sequence[Score], names: Sequence[str], count: int) -> tuple[str, ...]:
    means = {name: object_means((score.object, score.recipes[name]) for score in scores) for name in names}
    return tuple(sorted(names, key=lambda name: -math.fsum(means[name].values()))[:count])


def _unseen(operation: Operation, scores: Sequence[Score], fold: int) -> Operation:
    """The operation as chosen without a fold's photographs."""
    if not isinstance(operation, BestMembers):
        return operation
    count = max(map(len, operation.recipes.values()))
    chosen = choose_best([score for score in scores if score.fold != fold], count, operation.unconfidence_above)
    return operation.model_copy(update={"recipes": chosen.recipes})


def _try(case: Case, trials: Sequence[_Trial], chains: Sequence[Sequence[Operation]]) -> None:
    plain = apply(case.probability, ())
    before = dice(plain, case.truth)
    for trial, operations in zip(trials, chains, strict=True):
        mask = repair(case.probability, case.row.view, operations, case.mean_of)
        trial.differences.append((case.row.object, dice(mask, case.truth) - before))
        trial.changed += bool((mask != plain).any())


def _effect(trial: _Trial) -> Effect:
    means = object_means(trial.differences)
    change = bootstrap(means)
    return Effect(
        operation=trial.name,
        difference=change.mean,
        low=change.low if len(means) > 1 else None,
        high=change.high if len(means) > 1 else None,
        objects=len(means),
        images=len(trial.differences),
        changed=trial.changed,
        verdict=_verdict(change, len(means)),
    )


def _verdict(change: Interval, objects: int) -> Literal["helps", "hurts", "no evidence"]:
    if objects < FEW_OBJECTS or change.low <= 0 <= change.high:
        return "no evidence"
    return "helps" if change.low > 0 else "hurts"
