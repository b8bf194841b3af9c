"""Scores photographs, each with the members that did not train on it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from backdrop.common.errors import MemberError, PlanError
from backdrop.common.progress import progress
from backdrop.data import masks
from backdrop.data.dataset import Dataset, Digests, opened_pair
from backdrop.data.folds import FoldPlan, Row
from backdrop.data.masks import Overlap, PackedMask
from backdrop.evaluation.metrics import Score, measure_traits
from backdrop.inference.batch import chunks, lazily
from backdrop.inference.ensemble import EnsembleModel, Photograph, blocks, member_answers
from backdrop.inference.member import Member, verify_member
from backdrop.inference.predict import Mean


@dataclass(frozen=True)
class Scored:
    """The ensemble's score of each image, and each member's own Dice on every holdout image."""

    scores: list[Score]
    members: dict[str, dict[str, float]]


# The members that may score each photograph.
Judges = dict[Row, EnsembleModel]
# A photograph's place, its truth, and its traits.
Known = tuple[Row, PackedMask, dict[str, str]]


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


def score(dataset: Dataset, models: Judges, digests: Digests) -> Scored:
    """Scores every photograph with the members that may judge it.

    Args:
        dataset: the photographs.
        models: those members, as from `judges`.
        digests: sha256 of images and masks by stem.

    Raises:
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """
    result = Scored([], {})
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, model in models.items():
        groups.setdefault(tuple(member.name for member in model.members), []).append(row)
    with progress("judging photographs", len(models)) as advance:
        for rows in groups.values():
            for row_score, alone in _judge(dataset, rows, digests, models[rows[0]]):
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

    def prepare(row: Row) -> tuple[Photograph, Known]:
        with opened_pair(dataset.photos[row.image], digests) as (image, truth):
            return model.prepare(image), (row, PackedMask.of(truth), measure_traits(image, truth))

    dataset.select(row.image for row in rows)  # raises if a mask is missing
    recipes = {member.record.recipe for member in model.members}
    for chunk in chunks(lazily(prepare, rows), sums=1 + len(recipes)):
        yield from _judge_chunk(model, [photo for photo, _ in chunk], [known for _, known in chunk])


def _judge_chunk(
    model: EnsembleModel, photos: Sequence[Photograph], known: Sequence[Known]
) -> Iterator[tuple[Score, dict[str, float]]]:
    names = [member.record.recipe for member in model.members]
    truths = [truth.unpack() for _, truth, _ in known]
    outcomes = [model.outcome(photo) for photo in photos]
    alone: list[dict[str, Overlap]] = [{m.name: Overlap() for m in model.members} for _ in photos]
    by_recipe = [{name: Overlap() for name in names} for _ in photos]
    for rows in blocks(photos, sums=1 + len(set(names))):
        means = [Mean() for _ in photos]
        recipe_means = [{name: Mean() for name in names} for _ in photos]
        for member, weight in zip(model.members, model.weights(), strict=True):
            for i, answer in enumerate(member_answers(member, photos)):
                probability = answer.probability(rows)
                means[i].add(probability, weight)
                recipe_means[i][member.record.recipe].add(probability, 1)
                alone[i][member.name].add(masks.binarize(probability), truths[i][rows])
        for i, truth in enumerate(truths):
            outcomes[i].take(rows, means[i])
            for name, mean in recipe_means[i].items():
                by_recipe[i][name].add(mean.mask(), truth[rows])
    for i, (row, _, traits) in enumerate(known):
        recipes = {name: overlap.dice() for name, overlap in by_recipe[i].items()}
        dice = masks.dice(model.cut(outcomes[i], row.view), truths[i])
        score = Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes, traits)
        yield score, {name: overlap.dice() for name, overlap in alone[i].items()}
