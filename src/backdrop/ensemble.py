"""Many members, one answer: the weighted mean of their probabilities, and how well it fits the truth."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from backdrop import masks, storage
from backdrop.config import dump_yaml, parse, parse_yaml, read_text
from backdrop.dataset import Dataset, Digests, read_chunks
from backdrop.errors import MemberError
from backdrop.evaluation import Score
from backdrop.folds import FoldPlan, Row
from backdrop.prediction import Mean, device, integer_weights, predict_all
from backdrop.progress import progress
from backdrop.recipe import Ensemble
from backdrop.training.member import RECIPE, RECORD, WEIGHTS, Member, read_member, verify_member

CONFIG = "ensemble.yaml"
MEMBERS = "members"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Scored:
    """The ensemble's scores, an image a row, and every holdout image's Dice by each member alone."""

    scores: list[Score]
    members: dict[str, dict[str, float]]


@dataclass(frozen=True)
class EnsembleModel:
    """Members and the weights of their recipes; a recipe's weight is shared by its members."""

    members: tuple[Member, ...]
    recipe_weights: Mapping[str, float]

    def weights(self) -> list[int]:
        """Integer weights of the members, in their order."""
        names = [member.record.recipe for member in self.members]
        return integer_weights([self.recipe_weights.get(name, 1.0) / names.count(name) for name in names])

    def digest(self) -> str:
        """sha256 of the members' weights and of how they weigh in the mean."""
        parts = [[m.name, m.record.weights, weight] for m, weight in zip(self.members, self.weights(), strict=True)]
        return storage.sha256(json.dumps(parts).encode())

    def means(self, images: Sequence[Image]) -> list[Mean]:
        """The members' mean of each photograph (H, W, 3) RGB."""
        means = [Mean() for _ in images]
        for member, weight in zip(self.members, self.weights(), strict=True):
            for mean, probability in zip(means, opinions(member, images), strict=True):
                mean.add(probability, weight)
        return means

    def probability(self, image: Image) -> NDArray[np.float32]:
        """The mean probability (H, W), 0..1, of one photograph (H, W, 3) RGB."""
        return self.means([image])[0].probability()

    def mask(self, image: Image) -> masks.Mask:
        """The cut-out (H, W) of one photograph (H, W, 3) RGB."""
        return self.means([image])[0].mask()

    def of_fold(self, fold: int | None) -> "EnsembleModel":
        """Those members that may speak of a fold's photographs: they didn't train on them. All for the holdout."""
        able = tuple(member for member in self.members if fold is None or member.record.fold == fold)
        return EnsembleModel(able, self.recipe_weights)


def opinions(member: Member, images: Sequence[Image]) -> Iterator[Tensor]:
    """One member's probability (H, W) of each photograph."""
    return predict_all(member.network().to(device()), images, member.recipe.input, member.recipe.tta)


def gather(members: Sequence[Member], config: Ensemble | None) -> EnsembleModel:
    """An ensemble of finished members, its recipes weighted as `config` says (all alike without one).

    Raises:
        MemberError: if there is none, one stands there twice, or it isn't of the ensemble.
    """
    names = [member.name for member in members]
    recipes = [part.resolve() for part in config.parts()] if config else []
    if not members:
        raise MemberError("The ensemble has no members", "Name them with --members")
    for member in members:
        if names.count(member.name) > 1:
            raise MemberError(f"Member {member.name} is named twice", "Name each member once")
        if config and member.recipe not in recipes:
            what = f"Member {member.name} was not trained by a recipe of ensemble {config.name}"
            raise MemberError(what, "Leave it out, or put its settings into the ensemble's YAML")
    weights = config.weights() if config else {}
    return EnsembleModel(tuple(sorted(members, key=lambda member: member.name)), weights)


def write_ensemble(folder: Path, config: Ensemble, members: Sequence[Member]) -> None:
    """Writes what `load_ensemble` reads: `ensemble.yaml` and each member's record, recipe and weights."""
    (folder / CONFIG).parent.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(dump_yaml(config))
    for member in members:
        target = folder / MEMBERS / member.name
        target.mkdir(parents=True)
        for name in (RECORD, RECIPE, WEIGHTS):
            (target / name).write_bytes((member.folder / name).read_bytes())


def load_ensemble(folder: Path) -> EnsembleModel:
    """The ensemble in a folder that `write_ensemble` wrote.

    Raises:
        MemberError: if a member isn't whole.
        ConfigError: if `ensemble.yaml` isn't valid.
    """
    text = read_text(folder / CONFIG, "ensemble")
    config = parse(Ensemble, parse_yaml(text, str(folder / CONFIG)), str(folder / CONFIG))
    members = [read_member(path) for path in sorted((folder / MEMBERS).iterdir())]
    return gather(members, config)


def score(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> Scored:
    """Scores every photograph by those who may: a fold's by the members that didn't train on it, the holdout's by all.

    Photographs of folds for which there is no member are left out.

    Raises:
        MemberError: if a member wasn't trained by this plan on these data.
        DataError: if a photograph has changed or doesn't fit a recipe's input.
    """
    for member in model.members:
        verify_member(member, plan, digests)
    found = Scored([], {member.name: {} for member in model.members})
    folds = sorted({member.record.fold for member in model.members})
    total = sum(len(plan.validation(fold)) for fold in folds) + len(plan.holdout)
    with progress("evaluate photographs", total) as advance:
        for fold in folds:
            for row_score, _ in _judge(dataset, plan.validation(fold), digests, model.of_fold(fold)):
                found.scores.append(row_score)
                advance("")
        for row_score, alone in _judge(dataset, plan.holdout, digests, model):
            found.scores.append(row_score)
            for name, dice in alone.items():
                found.members[name][row_score.image] = dice
            advance("")
    return found


def score_holdout(dataset: Dataset, plan: FoldPlan, digests: Digests, model: EnsembleModel) -> list[Score]:
    """Scores the holdout by an ensemble that may have been trained by another plan (see the gate for what it may)."""
    return [row_score for row_score, _ in _judge(dataset, plan.holdout, digests, model)]


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
            alone[i][member.name] = masks.dice((probability > 0.5).cpu().numpy(), truths[i])
    for i, row in enumerate(rows):
        recipes = {name: masks.dice(group[i].mask(), truths[i]) for name, group in by_recipe.items()}
        dice = masks.dice(means[i].mask(), truths[i])
        yield Score(row.image, row.object, row.view, row.area, row.fold, dice, recipes), alone[i]
