"""An ensemble's prediction: the weighted mean of its members' probabilities, and the mask from it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from backdrop.common import storage
from backdrop.common.devices import device
from backdrop.common.errors import MemberError
from backdrop.config import Ensemble, digest
from backdrop.config.postprocessing import Operations
from backdrop.config.records import dump_yaml, parse, parse_yaml, read_text
from backdrop.data import masks
from backdrop.inference.member import RECIPE, RECORD, WEIGHTS, Member, read_member
from backdrop.inference.postprocessing import MeanOf, repair
from backdrop.inference.predict import Mean, integer_weights, predict_all

CONFIG = "ensemble.yaml"
MEMBERS = "members"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class EnsembleModel:
    """Members, the weights of their recipes (shared by a recipe's members), and post-processing operations."""

    members: tuple[Member, ...]
    recipe_weights: Mapping[str, float]
    operations: Operations = ()

    def weights(self) -> list[int]:
        """Integer weights of the members, in their order."""
        names = [member.record.recipe for member in self.members]
        return integer_weights([self.recipe_weights.get(name, 1.0) / names.count(name) for name in names])

    def digest(self) -> str:
        """sha256 of the members' weights and recipes, their weights in the mean, and the operations."""
        weighed = zip(self.members, self.weights(), strict=True)
        parts = [[m.name, m.record.weights, digest(m.recipe), weight] for m, weight in weighed]
        parts += [[operation.model_dump_json()] for operation in self.operations]
        return storage.sha256(json.dumps(parts).encode())

    def means(self, images: Sequence[Image]) -> list[Mean]:
        """The members' weighted mean for each photograph (H, W, 3) RGB."""
        means = [Mean() for _ in images]
        for member, weight in zip(self.members, self.weights(), strict=True):
            for mean, probability in zip(means, member_probabilities(member, images), strict=True):
                mean.add(probability, weight)
        return means

    def probability(self, image: Image) -> NDArray[np.float32]:
        """The mean probability (H, W), 0..1, of one photograph (H, W, 3) RGB."""
        return self.means([image])[0].probability()

    def mask(self, image: Image, view: str = "") -> masks.Mask:
        """The mask (H, W) of one photograph (H, W, 3) RGB; only `best_members` uses its view."""
        return self.cut(self.means([image])[0], image, view)

    def cut(self, mean: Mean, image: Image, view: str) -> masks.Mask:
        """The mask (H, W) from the members' mean. Every mask of an ensemble is made here."""
        if not self.operations:
            return mean.mask()  # exact, on integers
        return repair(mean.probability(), view, self.operations, self.mean_of(image))

    def mean_of(self, image: Image) -> MeanOf:
        """A function that returns the mean of some recipes' members; of all members if those recipes have none."""

        def probability(recipes: tuple[str, ...]) -> NDArray[np.float32]:
            chosen = tuple(member for member in self.members if member.record.recipe in recipes)
            return replace(self, members=chosen or self.members).probability(image)

        return probability


def member_probabilities(member: Member, images: Sequence[Image]) -> Iterator[Tensor]:
    """One member's probability (H, W) for each photograph."""
    recipe = member.recipe
    network = member.network().to(device())
    return predict_all(network, images, recipe.input, recipe.tta, recipe.legacy.output_align_corners)


def gather(members: Sequence[Member], config: Ensemble | None) -> EnsembleModel:
    """An ensemble of finished members, with the weights of `config` (equal weights without one).

    Raises:
        MemberError: if there are no members, one is named twice, or one doesn't belong to the ensemble.
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
            raise MemberError(what, "Leave it out, or add its settings to the ensemble's YAML")
    weights = config.weights() if config else {}
    ordered = tuple(sorted(members, key=lambda member: member.name))
    return EnsembleModel(ordered, weights, config.postprocessing if config else ())


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
        MemberError: if a member is incomplete.
        ConfigError: if `ensemble.yaml` isn't valid.
    """
    text = read_text(folder / CONFIG, "ensemble")
    config = parse(Ensemble, parse_yaml(text, str(folder / CONFIG)), str(folder / CONFIG))
    members = [read_member(path) for path in sorted((folder / MEMBERS).iterdir())]
    return gather(members, config)
