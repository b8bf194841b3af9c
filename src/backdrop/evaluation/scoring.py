"""Scores photographs, each with the members that did not train on it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from backdrop.common.errors import MemberError, PlanError
from backdrop.common.progress import progress
from backdrop.data import masks
from backdrop.data.dataset import Dataset, Digests, read_chunks
from backdrop.data.folds import FoldPlan, Row
from backdrop.evaluation.metrics import Score
from backdrop.inference.ensemble import EnsembleModel, Image, member_probabilities
from backdrop.inference.member import Member, verify_member
from backdrop.inference.predict import Mean


@dataclass(frozen=True)
class Scored:
    """The ensemble's score of each image, and each member's own Dice on every holdout image."""

    scores: list[Score]
    members: dict[str, dict[str, float]]


# The members that may score each photograph.
Judges = dict[Row, EnsembleModel]


def judges(plans: Sequence[FoldPlan], digests: Digests, model: EnsembleModel) -> Judges:
    """The members that may score each photograph: those that did not train on it under their own plan.

    A recipe without such a member is left out, and the others keep their proportions. A photograph without any such
    member is left out.

    Args:
        plans: plans of the same data with the same holdout; the first is the ensemble's own and defines the folds.
        digests: sha256 of images and masks by stem.
        model: the ensemble.

    Raises:
        MemberError: if a member wasn't trained with one of the plans on this data.
    """
    assignments = [_plan_of(member, plans, digests).assignment() for member in model.members]
    result: Judges = {}
    for row in plans[0].rows:
        folds = [assignment[row.object] for assignment in assignments]
        members = [m for m, fold in zip(model.members, folds, strict=True) if fold in (None, m.record.fold)]
        if members:
            result[row] = replace(model, members=tuple(members))
    return result


def score(dataset: Dataset, judges: Judges, digests: Digests) -> Scored:
    """Scores every photograph with the members that may judge it.

    Raises:
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """
    result = Scored([], {})
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, model in judges.items():
        groups.setdefault(tuple(member.name for member in model.members), []).append(row)
    with progress("judging photographs", len(judges)) as advance:
        for rows in groups.values():
            for row_score, alone in _judge(dataset, rows, digests, judges[rows[0]]):
                result.scores.append(row_score)
                if row_score.fold is None:
                    for name, dice in alone.items():
                        result.members.setdefault(name, {})[row_score.image] = dice
                advance()
    return result


def score_holdout(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> list[Score]:
    """Scores the holdout with an ensemble that may have been trained with another plan."""
    return [row_score for row_score, _ in _judge(dataset, plan.holdout, digests, model)]


def _plan_of(member: Member, plans: Sequence[FoldPlan], digests: Digests) -> FoldPlan:
    """The plan that the member was trained with. If several match, they assign it the same photographs."""
    for plan in plans:
        with contextlib.suppress(MemberError, PlanError):
            verify_member(member, plan, digests)
            return plan
    names = "this plan" if len(plans) == 1 else "any of these plans"
    raise MemberError(f"Member {member.name} was not trained with {names} on this data", "Train it again")


def _judge(
    dataset: Dataset, rows: Sequence[Row], digests: Digests, model: EnsembleModel
) -> Iterator[tuple[Score, dict[str, float]]]:
    """Each photograph's score, and its Dice by each member alone."""
    remaining = iter(rows)
    for pairs in read_chunks(dataset.select(row.image for row in rows), digests):
        chunk = list(islice(remaining, len(pairs)))
        yield from _judge_chunk(chunk, [image for image, _ in pairs], [truth for _, truth in pairs], model)


def _judge_chunk(
    rows: Sequence[Row], images: Sequence[Image], truths: Sequence[masks.Mask], model: EnsembleModel
) -> Iterator[tuple[Score, dict[str, float]]]:
    means = [Mean() for _ in rows]
    by_recipe: dict[str, list[Mean]] = {m.record.recipe: [Mean() for _ in rows] for m in model.members}
    alone: list[dict[str, float]] = [{} for _ in rows]
    for member, weight in zip(model.members, model.weights(), strict=True):
        for i, probability in enumerate(member_probabilities(member, images)):
            means[i].add(probability, weight)
            by_recipe[member.record.recipe][i].add(probability, 1)
            alone[i][member.name] = masks.dice(masks.binarize(probability), truths[i])
    for i, row in enumerate(rows):
        recipes = {name: masks.dice(group[i].mask(), truths[i]) for name, group in by_recipe.items()}
        dice = masks.dice(model.cut(means[i], images[i], row.view), truths[i])
        yield Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes), alone[i]
