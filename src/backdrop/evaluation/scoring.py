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
from backdrop.evaluation.statistics import measure_image, measure_prediction
from backdrop.evaluation.subsets import Band, MemberDice, SetDice, Subsets
from backdrop.inference.answer import Answer
from backdrop.inference.batch import ahead, chunks, lazily, outcomes
from backdrop.inference.ensemble import EnsembleModel, Inputs, Outcome, Photograph, blocks, member_answers
from backdrop.inference.mean import Mean, merge
from backdrop.inference.member import Member, verify_member
from backdrop.inference.uncertainty import Doubt

ROOM = 2**29  # bytes of members' answers that are kept until their sums are known


@dataclass(frozen=True)
class Scored:
    """Each image as judged by all members that may, and each member's own Dice on every holdout image.

    `details` has each image's mask by all members (None), and by each set of first ones that judged it; `subsets` its
    Dice by parts of the ensemble.
    """

    judged: list[Judged]
    members: dict[str, dict[str, float]]
    details: dict[str, "DetailsByFirst"]
    subsets: dict[str, Subsets]

    def take(self, found: "_Found") -> None:
        """Adds a photograph."""
        score = found.judged.score
        self.judged.append(found.judged)
        self.details[score.image] = found.details
        if found.subsets:
            self.subsets[score.image] = found.subsets
        if score.fold is None:
            for name, dice in found.alone.items():
                self.members.setdefault(name, {})[score.image] = dice

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


@dataclass(frozen=True)
class Known:
    """What is known of a photograph before it is predicted: its place, its truth, its traits and its statistics."""

    row: Row
    truth: PackedMask
    traits: dict[str, str]
    statistics: dict[str, float]


@dataclass(frozen=True)
class _Found:
    """A photograph as judged, its Dice by each member alone, the details of its masks, and its Dice by parts."""

    judged: Judged
    alone: dict[str, float]
    details: DetailsByFirst
    subsets: Subsets | None


def judges(plans: Sequence[FoldPlan], digests: Digests, model: EnsembleModel) -> Judges:
    """The members that may score each photograph: those that did not train on it under their own plan.

    A recipe without such a member is left out, and the others keep their proportions. A photograph without any such
    member is left out.

    Args:
        plans: plans of the same data with the same holdout; the first is the ensemble's own and defines the folds.
        digests: sha256 of images and masks by stem.
        model: the ensemble.

    Raises:
        MemberError: if a member wasn't trained with one of the plans on this data, or was on pseudo-labels of an object
            that joined the holdout later.
    """
    _require_unseen(plans[0], model.members)
    assignments = [plan_of(member, plans, digests).assignment() for member in model.members]
    result: Judges = {}
    for row in plans[0].rows:
        folds = [assignment[row.object] for assignment in assignments]
        members = [m for m, fold in zip(model.members, folds, strict=True) if fold in (None, m.record.fold)]
        if members:
            result[row] = replace(model, members=tuple(members))
    return result


def _require_unseen(plan: FoldPlan, members: Sequence[Member]) -> None:
    held = {row.object for row in plan.holdout}
    for member in members:
        if known := sorted(held.intersection(member.record.pseudo_objects)):
            what = f"Member {member.name} was trained on pseudo-labels of {known[0]}, which the plan holds out"
            raise MemberError(what, "Train it again, without them")


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
    result = Scored([], {}, {}, {})
    with progress("judging photographs", len(models)) as advance:
        for rows in _grouped(models, models):
            for found in _judge(dataset, rows, digests, models[rows[0]], firsts, with_subsets=True):
                result.take(found)
                advance()
    return result


def score_holdout(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> list[Score]:
    """Scores the holdout with an ensemble that may have been trained with another plan, early exit included."""
    rule = model.early_exit
    firsts = [rule.first] if rule else []
    return [found.judged.by(rule) for found in _judge(dataset, plan.holdout, digests, model, firsts)]


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
        for (row, truth), outcome in outcomes(models[group[0]], lazily(prepare, group)):
            assert outcome.probability is not None
            yield row, outcome.probability, truth.unpack()


def _grouped(models: Judges, rows: Iterable[Row]) -> list[list[Row]]:
    """The photographs that the same members may judge."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(member.name for member in models[row].members), []).append(row)
    return list(groups.values())


def plan_of(member: Member, plans: Sequence[FoldPlan], digests: Digests) -> FoldPlan:
    """The plan that the member was trained with. If several match, they assign it the same photographs.

    Raises:
        MemberError: if it wasn't trained with any of them on this data.
    """
    for plan in plans:
        with contextlib.suppress(MemberError, PlanError):
            verify_member(member, plan, digests)
            return plan
    names = "this plan" if len(plans) == 1 else "any of these plans"
    raise MemberError(f"Member {member.name} was not trained with {names} on this data", "Train it again")


def _judge(
    dataset: Dataset,
    rows: Sequence[Row],
    digests: Digests,
    model: EnsembleModel,
    firsts: Collection[First],
    with_subsets: bool = False,
) -> Iterator[_Found]:
    """Each photograph as judged; also by parts of the ensemble if asked for."""

    def prepare(row: Row) -> tuple[Photograph, Known]:
        with opened_pair(dataset.photos[row.image], digests) as (image, truth):
            known = Known(row, PackedMask.of(truth), measure_traits(image, truth), measure_image(image))
            return model.prepare(image), known

    dataset.select(row.image for row in rows)  # raises if a mask is missing
    recipes = {member.record.recipe for member in model.members}
    firsts = [first for first in firsts if recipes.intersection(first)]
    for chunk in ahead(chunks(model, lazily(prepare, rows), sums=1 + len(recipes) + len(firsts))):
        yield from _judge_chunk(model, chunk, firsts, with_subsets)


def _judge_chunk(
    model: EnsembleModel,
    chunk: Sequence[tuple[Photograph, Known]],
    firsts: Collection[First],
    with_subsets: bool,
) -> Iterator[_Found]:
    photos = [photo for photo, _ in chunk]
    # In prediction, all members see a photograph that comes in parts, so its first ones needn't be tried.
    tried = firsts if len(blocks(photos)) == 1 else ()
    judgings = [_Judging(model, photo, known, tried, with_subsets) for photo, known in chunk]
    answers = _Answers(photos)
    recipes = len({member.record.recipe for member in model.members})
    more = recipes + 3 if with_subsets else 0  # what parts take where networks disagree on every pixel
    for rows in blocks(photos, sums=1 + recipes + len(tried) + more):
        for one in judgings:
            one.begin(rows)
        for member in model.members:
            for one, answer in zip(judgings, answers.of(member), strict=True):
                one.see(member, answer)
        for one in judgings:
            one.end()
        again = [one for one in judgings if isinstance(one.part, MemberDice) and len(model.members) > 1]
        for member in model.members if again else ():
            for one, answer in zip(judgings, answers.of(member), strict=True):
                one.leave_out(member, answer)
    for one in judgings:
        yield one.found(firsts)


class _Judging:
    """A photograph while its members answer, some rows at a time: all of them, then, if asked for, all but one."""

    def __init__(
        self, model: EnsembleModel, photo: Photograph, known: Known, firsts: Collection[First], with_subsets: bool
    ) -> None:
        self._model, self._known, self._truth = model, known, known.truth.unpack()
        is_held_out = known.row.fold is None
        kind = MemberDice if is_held_out else SetDice
        self.part = kind(model) if with_subsets else None
        names = [member.record.recipe for member in model.members]
        self._weights = dict(zip(names, model.weights(), strict=True))  # members of a recipe have one weight
        self._outcome = model.outcome(photo, with_probability=True)
        self._by_first = {first: (model.outcome(photo, with_probability=True), Doubt()) for first in firsts}
        self._by_recipe = {name: Overlap() for name in names}
        self._alone = {member.name: Overlap() for member in model.members} if is_held_out else {}
        self._rows, self._means = slice(0), dict[str, Mean]()
        self._band = Band(self._truth[self._rows])

    def begin(self, rows: slice) -> None:
        """Starts on these rows, of which no member's answer is known yet."""
        self._rows, self._band = rows, Band(self._truth[rows])
        self._means = {name: Mean() for name in self._weights}

    def see(self, member: Member, answer: Answer) -> None:
        """Adds a member's answer."""
        recipe, probability = member.record.recipe, answer.probability(self._rows)
        for first, (_, doubt) in self._by_first.items():
            if recipe in first:
                doubt.add(probability.cpu().numpy(), self._weights[recipe])
        self._means[recipe].add(probability, 1)
        mask = masks.binarize(probability)
        self._band.see(mask)
        if self._alone:
            self._alone[member.name].add(mask, self._truth[self._rows])

    def end(self) -> None:
        """Judges these rows, which all members have answered."""
        self._outcome.take(self._rows, self._merged(self._weights))
        for first, (outcome, _) in self._by_first.items():
            outcome.take(self._rows, self._merged(first))
        for name, mean in self._means.items():
            mask = self._outcome.mask[self._rows] if len(self._weights) == 1 else mean.mask()
            self._by_recipe[name].add(mask, self._truth[self._rows])
        if self.part:
            totals = {name: mean.total for name, mean in self._means.items() if mean.total is not None}
            self.part.add(self._band, totals)

    def leave_out(self, member: Member, answer: Answer) -> None:
        """Judges these rows without a member."""
        if isinstance(self.part, MemberDice):
            self.part.add_without(self._band, member, answer.probability(self._rows))

    def _merged(self, recipes: Collection[str]) -> Mean:
        return merge([(mean, self._weights[name]) for name, mean in self._means.items() if name in recipes])

    def found(self, firsts: Collection[First]) -> _Found:
        """The photograph as judged; a first one that wasn't tried never stops."""
        row = self._known.row
        recipes = {name: overlap.dice() for name, overlap in self._by_recipe.items()}
        dice, expected, whole = self._measured(self._outcome)
        score = Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes, self._known.traits)
        trials = {first: Trial(math.inf, dice, expected) for first in firsts}
        details: DetailsByFirst = {None: whole}
        for first, (outcome, doubt) in self._by_first.items():
            less, expected_of_less, details[first] = self._measured(outcome)
            trials[first] = Trial(doubt.value(), less, expected_of_less)
        alone = {name: overlap.dice() for name, overlap in self._alone.items()}
        return _Found(Judged(score, trials, expected), alone, details, self.part.subsets() if self.part else None)

    def _measured(self, outcome: Outcome) -> tuple[float, float, Details]:
        """The Dice of an outcome's mask, the Dice that its probability expects, and its details."""
        assert outcome.probability is not None
        truth = self._truth
        mask = self._model.cut(outcome, self._known.row.view)
        statistics = self._known.statistics | measure_prediction(outcome.probability, mask)
        details = Details(measure_mask(mask, truth), count_levels(outcome.probability, truth), statistics)
        return masks.dice(mask, truth), statistics["expected_dice"], details


class _Answers:
    """Members' answers to photographs. Those that have room stay in memory, the others are computed again."""

    def __init__(self, photos: Sequence[Photograph]) -> None:
        self._inputs, self._room = Inputs([photos]), ROOM
        self._kept: dict[str, list[Answer]] = {}

    def of(self, member: Member) -> Iterable[Answer]:
        """A member's answer to each photograph."""
        if member.name in self._kept:
            return self._kept[member.name]
        found = list(member_answers(member, self._inputs))
        size = sum(answer.logits.nbytes for answer in found)
        if size <= self._room:
            self._kept[member.name] = found
            self._room -= size
        return found
