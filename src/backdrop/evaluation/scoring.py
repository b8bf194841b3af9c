"""Scores photographs, each with the members that did not train on it."""

import contextlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backdrop.common.errors import MemberError, PlanError
from backdrop.common.progress import progress
from backdrop.data import masks
from backdrop.data.dataset import Dataset, Digests, opened_pair
from backdrop.data.folds import FoldPlan, Row
from backdrop.data.masks import Mask, Overlap, PackedMask
from backdrop.evaluation.calibration import count_levels
from backdrop.evaluation.early_exit import First, Judged, Rules, Trial
from backdrop.evaluation.outline import measure_mask
from backdrop.evaluation.quality import Details
from backdrop.evaluation.records import Score
from backdrop.evaluation.slices import measure_traits
from backdrop.inference.batch import ahead, chunks, lazily
from backdrop.inference.ensemble import EnsembleModel, Inputs, Outcome, Photograph, blocks, member_answers
from backdrop.inference.mean import Mean
from backdrop.inference.member import Member, verify_member
from backdrop.inference.uncertainty import Doubt, expected_dice


@dataclass(frozen=True)
class Scored:
    """Each image as judged by all members that may, and each member's own Dice on every holdout image.

    `details` has each image's mask by all members (None), and by each set of first ones that judged it.
    """

    judged: list[Judged]
    members: dict[str, dict[str, float]]
    details: dict[str, "DetailsByFirst"]

    @property
    def scores(self) -> list[Score]:
        """The ensemble's score of each image."""
        return [one.score for one in self.judged]

    def details_by(self, rules: Rules) -> dict[str, Details]:
        """Each image's mask as the rules of an early exit lead to it."""
        found = {}
        for one in self.judged:
            rule = rules.get(one.score.fold)
            stopped = rule is not None and one.stopped(rule) is not None
            found[one.score.image] = self.details[one.score.image][rule.first if rule and stopped else None]
        return found


# A photograph's mask by all members (None), and by first ones alone.
DetailsByFirst = dict[First | None, Details]
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


def score(dataset: Dataset, models: Judges, digests: Digests, firsts: Collection[First] = ()) -> Scored:
    """Scores every photograph with the members that may judge it, all of them at once.

    Args:
        dataset: the photographs.
        models: those members, as from `judges`.
        digests: sha256 of images and masks by stem.
        firsts: recipes whose members are also tried alone, for an early exit.

    Raises:
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """
    result = Scored([], {}, {})
    with progress("judging photographs", len(models)) as advance:
        for rows in _grouped(models, models):
            for one, alone, details in _judge(dataset, rows, digests, models[rows[0]], firsts):
                result.judged.append(one)
                result.details[one.score.image] = details
                if one.score.fold is None:
                    for name, dice in alone.items():
                        result.members.setdefault(name, {})[one.score.image] = dice
                advance()
    return result


def score_holdout(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> list[Score]:
    """Scores the holdout with an ensemble that may have been trained with another plan, early exit included."""
    rule = model.early_exit
    firsts = [rule.first] if rule else []
    return [one.by(rule) for one, _, _ in _judge(dataset, plan.holdout, digests, model, firsts)]


def predictions(
    dataset: Dataset, digests: Digests, models: Judges, rows: Sequence[Row]
) -> Iterator[tuple[Row, NDArray[np.float32], Mask]]:
    """The mean probability (H, W), 0..1, of the members that may judge each photograph, and its mask, in any order.

    Args:
        dataset: the photographs.
        digests: sha256 of images and masks by stem.
        models: the members, as from `judges`.
        rows: the photographs to predict.

    Raises:
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """

    def prepare(row: Row) -> tuple[Photograph, tuple[Row, PackedMask]]:
        with opened_pair(dataset.photos[row.image], digests) as (image, truth):
            return models[row].prepare(image), (row, PackedMask.of(truth))

    for group in _grouped(models, rows):
        model = models[group[0]]
        for chunk in ahead(chunks(model, lazily(prepare, group))):
            outcomes = model.outcomes([photo for photo, _ in chunk], with_probability=True)
            for (_, (row, truth)), outcome in zip(chunk, outcomes, strict=True):
                assert outcome.probability is not None
                yield row, outcome.probability, truth.unpack()


def _grouped(models: Judges, rows: Iterable[Row]) -> list[list[Row]]:
    """The photographs that the same members may judge."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(member.name for member in models[row].members), []).append(row)
    return list(groups.values())


def _plan_of(member: Member, plans: Sequence[FoldPlan], digests: Digests) -> FoldPlan:
    """The plan that the member was trained with. If several match, they assign it the same photographs."""
    for plan in plans:
        with contextlib.suppress(MemberError, PlanError):
            verify_member(member, plan, digests)
            return plan
    names = "this plan" if len(plans) == 1 else "any of these plans"
    raise MemberError(f"Member {member.name} was not trained with {names} on this data", "Train it again")


def _judge(
    dataset: Dataset, rows: Sequence[Row], digests: Digests, model: EnsembleModel, firsts: Collection[First]
) -> Iterator[tuple[Judged, dict[str, float], DetailsByFirst]]:
    """Each photograph as judged, its Dice by each member alone, and the details of its masks."""

    def prepare(row: Row) -> tuple[Photograph, Known]:
        with opened_pair(dataset.photos[row.image], digests) as (image, truth):
            return model.prepare(image), (row, PackedMask.of(truth), measure_traits(image, truth))

    dataset.select(row.image for row in rows)  # raises if a mask is missing
    recipes = {member.record.recipe for member in model.members}
    firsts = [first for first in firsts if recipes.intersection(first)]
    for chunk in ahead(chunks(model, lazily(prepare, rows), sums=1 + len(recipes) + len(firsts))):
        yield from _judge_chunk(model, [photo for photo, _ in chunk], [known for _, known in chunk], firsts)


def _judge_chunk(
    model: EnsembleModel, photos: Sequence[Photograph], known: Sequence[Known], firsts: Sequence[First]
) -> Iterator[tuple[Judged, dict[str, float], DetailsByFirst]]:
    names = [member.record.recipe for member in model.members]
    truths = [truth.unpack() for _, truth, _ in known]
    outcomes = [model.outcome(photo, with_probability=True) for photo in photos]
    alone: list[dict[str, Overlap]] = [{m.name: Overlap() for m in model.members} for _ in photos]
    by_recipe = [{name: Overlap() for name in names} for _ in photos]
    # In prediction, all members see a photograph that comes in parts, so its first ones needn't be tried.
    tried = firsts if len(blocks(photos)) == 1 else ()
    by_first = [{first: model.outcome(photo, with_probability=True) for first in tried} for photo in photos]
    doubts = [{first: Doubt() for first in tried} for _ in photos]
    for rows in blocks(photos, sums=1 + len(set(names)) + len(tried)):
        means = [Mean() for _ in photos]
        first_means = [{first: Mean() for first in tried} for _ in photos]
        recipe_means = [{name: Mean() for name in names} for _ in photos]
        inputs = Inputs([photos])
        for member, weight in zip(model.members, model.weights(), strict=True):
            for i, answer in enumerate(member_answers(member, inputs)):
                probability = answer.probability(rows)
                means[i].add(probability, weight)
                for first, mean in first_means[i].items():
                    if member.record.recipe in first:
                        mean.add(probability, weight)
                        doubts[i][first].add(probability.cpu().numpy(), weight)
                recipe_means[i][member.record.recipe].add(probability, 1)
                alone[i][member.name].add(masks.binarize(probability), truths[i][rows])
        for i, truth in enumerate(truths):
            outcomes[i].take(rows, means[i])
            for first, mean in first_means[i].items():
                by_first[i][first].take(rows, mean)
            for name, mean in recipe_means[i].items():
                by_recipe[i][name].add(mean.mask(), truth[rows])
    for i, (row, _, traits) in enumerate(known):
        recipes = {name: overlap.dice() for name, overlap in by_recipe[i].items()}
        dice, expected, whole = _measured(model, outcomes[i], row.view, truths[i])
        score = Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes, traits)
        trials = {first: Trial(math.inf, dice, expected) for first in firsts}
        details: DetailsByFirst = {None: whole}
        for first, outcome in by_first[i].items():
            less, expected_of_less, details[first] = _measured(model, outcome, row.view, truths[i])
            trials[first] = Trial(doubts[i][first].value(), less, expected_of_less)
        alone_dice = {name: overlap.dice() for name, overlap in alone[i].items()}
        yield Judged(score, trials, expected), alone_dice, details


def _measured(model: EnsembleModel, outcome: Outcome, view: str, truth: Mask) -> tuple[float, float, Details]:
    """The Dice of an outcome's mask, the Dice that its probability expects, and its details."""
    assert outcome.probability is not None
    mask = model.cut(outcome, view)
    details = Details(measure_mask(mask, truth), count_levels(outcome.probability, truth))
    return masks.dice(mask, truth), expected_dice(outcome.probability, mask), details
