"""Scores of photographs, each by the members that did not train on it."""

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
from backdrop.inference.ensemble import EnsembleModel, Image, opinions
from backdrop.inference.member import Member, verify_member
from backdrop.inference.predict import Mean


@dataclass(frozen=True)
class Scored:
    """The ensemble's scores, an image a row, and every holdout image's Dice by each member alone."""

    scores: list[Score]
    members: dict[str, dict[str, float]]


# Who may judge each photograph.
Judges = dict[Row, EnsembleModel]


def judges(plans: Sequence[FoldPlan], digests: Digests, model: EnsembleModel) -> Judges:
    """Those who may judge each photograph: the members that did not train on it, each under the plan that it is of.

    A recipe that has no such member is left out, and the others keep their proportions; a photograph that has none at
    all is left out.

    Args:
        plans: of the same data and with one holdout; the first is the ensemble's own, and tells the photographs' folds.
        digests: of the data.
        model: the ensemble.

    Raises:
        MemberError: if a member wasn't trained by one of the plans on these data.
    """
    places = [_plan_of(member, plans, digests).assignment() for member in model.members]
    found: Judges = {}
    for row in plans[0].rows:
        folds = [place[row.object] for place in places]
        able = [m for m, fold in zip(model.members, folds, strict=True) if fold in (None, m.record.fold)]
        if able:
            found[row] = replace(model, members=tuple(able))
    return found


def score(dataset: Dataset, who: Judges, digests: Digests) -> Scored:
    """Scores every photograph by those who may judge it.

    Raises:
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """
    found = Scored([], {})
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, model in who.items():
        groups.setdefault(tuple(member.name for member in model.members), []).append(row)
    with progress("judging photographs", len(who)) as advance:
        for rows in groups.values():
            for row_score, alone in _judge(dataset, rows, digests, who[rows[0]]):
                found.scores.append(row_score)
                if row_score.fold is None:
                    for name, dice in alone.items():
                        found.members.setdefault(name, {})[row_score.image] = dice
                advance()
    return found


def score_holdout(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> list[Score]:
    """Scores the holdout by an ensemble that may have been trained by another plan (see the gate for what it may)."""
    return [row_score for row_score, _ in _judge(dataset, plan.holdout, digests, model)]


def _plan_of(member: Member, plans: Sequence[FoldPlan], digests: Digests) -> FoldPlan:
    """The plan that the member was trained by. Where several are, they put the same photographs before it."""
    for plan in plans:
        with contextlib.suppress(MemberError, PlanError):
            verify_member(member, plan, digests)
            return plan
    which = "this plan" if len(plans) == 1 else "any of these plans"
    raise MemberError(f"Member {member.name} was not trained by {which} on these data", "Train it again")


def _judge(
    dataset: Dataset, rows: Sequence[Row], digests: Digests, model: EnsembleModel
) -> Iterator[tuple[Score, dict[str, float]]]:
    """Each photograph's score, and its Dice by each member alone."""
    left = iter(rows)
    for pairs in read_chunks(dataset.select(row.image for row in rows), digests):
        chunk = list(islice(left, len(pairs)))
        yield from _judge_chunk(chunk, [image for image, _ in pairs], [truth for _, truth in pairs], model)


def _judge_chunk(
    rows: Sequence[Row], images: Sequence[Image], truths: Sequence[masks.Mask], model: EnsembleModel
) -> Iterator[tuple[Score, dict[str, float]]]:
    means = [Mean() for _ in rows]
    by_recipe: dict[str, list[Mean]] = {m.record.recipe: [Mean() for _ in rows] for m in model.members}
    alone: list[dict[str, float]] = [{} for _ in rows]
    for member, weight in zip(model.members, model.weights(), strict=True):
        for i, probability in enumerate(opinions(member, images)):
            means[i].add(probability, weight)
            by_recipe[member.record.recipe][i].add(probability, 1)
            alone[i][member.name] = masks.dice(masks.binarize(probability), truths[i])
    for i, row in enumerate(rows):
        recipes = {name: masks.dice(group[i].mask(), truths[i]) for name, group in by_recipe.items()}
        dice = masks.dice(model.cut(means[i], images[i], row.view), truths[i])
        yield Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes), alone[i]
