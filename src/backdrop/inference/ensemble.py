"""An ensemble's prediction: the weighted mean of its members' probabilities, and the mask from it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backdrop.common import storage
from backdrop.common.devices import device, precision_of
from backdrop.common.errors import MemberError
from backdrop.config import Ensemble, ExitRule, Input, PredictedDice, Recipe, digest
from backdrop.config.postprocessing import Operations
from backdrop.config.records import dump_yaml, parse, parse_yaml, read_text
from backdrop.data import masks
from backdrop.data.preprocessing import to_input
from backdrop.inference.answer import ALL, Answer
from backdrop.inference.mean import KEPT, Mean, integer_weights
from backdrop.inference.member import CONFIG, MEMBERS, ONNX, RECIPE, RECORD, WEIGHTS, Member, read_member
from backdrop.inference.postprocessing import MeanOf, repair
from backdrop.inference.predict import BATCH, answers, batches, scaled_size
from backdrop.inference.uncertainty import DiceRange, Doubt, expected_dice, predict_dice
from backdrop.models import build
from backdrop.models.cost import macs

BLOCK = 40_000_000  # pixels of one photograph that are summed at a time; their sums take 320 MB

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class EnsembleModel:
    """Members, the weights of their recipes (shared by a recipe's members), and post-processing operations.

    With an `early_exit`, only doubtful photographs are seen by all members. `predicted_dice` says how good a mask is.
    """

    members: tuple[Member, ...]
    recipe_weights: Mapping[str, float]
    operations: Operations = ()
    early_exit: ExitRule | None = None
    predicted_dice: PredictedDice | None = None

    @property
    def is_in_memory(self) -> bool:
        """Whether all networks stay in memory."""
        return all(member.is_in_memory for member in self.members)

    def weights(self) -> list[int]:
        """Integer weights of the members, in their order."""
        names = [member.record.recipe for member in self.members]
        return integer_weights([self.recipe_weights.get(name, 1.0) / names.count(name) for name in names])

    def digest(self) -> str:
        """sha256 of the members' weights and recipes, their weights in the mean, the operations, and the early exit."""
        weighed = zip(self.members, self.weights(), strict=True)
        parts = [[m.name, m.record.weights, digest(m.recipe), weight] for m, weight in weighed]
        parts += [[operation.model_dump_json()] for operation in self.operations]
        parts += [[self.early_exit.model_dump_json()]] if self.early_exit else []
        return storage.sha256(json.dumps(parts).encode())

    def computation(self) -> list[str]:
        """What the last bits of the members' answers depend on: the kind of device, and the precisions."""
        target = device()
        return [
            target.type,
            *sorted({precision_of(member.recipe.compute.precision, target) for member in self.members}),
        ]

    def cost(self) -> int:
        """Multiply-accumulates of all networks for one photograph: of every member, snapshot, flip and scale."""
        return sum(prediction_cost(member.recipe) for member in self.members)

    def prepare(self, image: Image) -> "Photograph":
        """What the members need of a photograph (H, W, 3) RGB.

        Raises:
            DataError: if it doesn't fit a recipe's input.
        """
        specs = {member.recipe.input for member in self.members}
        height, width = image.shape[:2]
        return Photograph(height, width, {spec: to_input(image, spec) for spec in specs})

    def means(self, photos: Sequence["Photograph"], rows: slice = ALL) -> list[Mean]:
        """All members' weighted mean for each photograph, or only for some of its rows."""
        means = [Mean(rows, KEPT // len(photos)) for _ in photos]
        for index, answer, weight in self._answers(self.members, [photos]):
            means[index].keep(answer, weight)
        return means

    def exit_means(self, photos: Sequence["Photograph"]) -> list[Mean]:
        """As `means`, but only of the first members for a photograph that these leave in no doubt.

        The doubtful photographs of four are the others' batch, so that it doesn't depend on how many there are in all.
        """
        rule, first = self.early_exit, self.first()
        if rule is None or not first:
            return self.means(photos)
        means, doubts = [Mean(room=KEPT // len(photos)) for _ in photos], [Doubt() for _ in photos]
        for index, answer, weight in self._answers(first, [photos]):
            probability = answer.probability()
            means[index].add(probability, weight)
            doubts[index].add(probability.cpu().numpy(), weight)
        doubtful = [index for index, doubt in enumerate(doubts) if doubt.value() > rule.unconfidence_above]
        fours = [[photos[i] for i in doubtful if i // BATCH == four] for four in range(-(-len(photos) // BATCH))]
        rest = [member for member in self.members if member not in first]
        for place, answer, weight in self._answers(rest, fours) if doubtful else ():
            means[doubtful[place]].keep(answer, weight)
        return means

    def first(self) -> list[Member]:
        """The members that see a photograph first; none without an early exit."""
        names = self.early_exit.first if self.early_exit else ()
        return [member for member in self.members if member.record.recipe in names]

    def _answers(
        self, members: Sequence[Member], groups: Sequence[Sequence["Photograph"]]
    ) -> Iterator[tuple[int, Answer, int]]:
        """Some members' answers to all photographs, with the photograph's place and the member's weight.

        Networks see each group by itself.
        """
        weights = dict(zip((member.name for member in self.members), self.weights(), strict=True))
        inputs = Inputs(groups)
        for member in members:
            for place, answer in enumerate(member_answers(member, inputs)):
                yield place, answer, weights[member.name]

    def outcomes(self, photos: Sequence["Photograph"], with_probability: bool = False) -> Iterator["Outcome"]:
        """The members' outcome for each photograph; a very large one must be alone, and is summed part by part.

        All members see a very large one, because the first members' doubt would be known only after all parts.
        """
        parts = blocks(photos)
        if len(parts) > 1:
            outcome = self.outcome(photos[0], with_probability)
            for rows in parts:
                outcome.take(rows, self.means(photos, rows)[0])
            yield outcome
            return
        means = self.exit_means(photos)[::-1]
        for photo in photos:
            outcome = self.outcome(photo, with_probability)
            outcome.take(ALL, means.pop())  # so that only one sum is in memory
            yield outcome

    def outcome(self, photo: "Photograph", with_probability: bool = False) -> "Outcome":
        """An empty outcome, with the probability if post-processing needs it or the caller does."""
        return Outcome(photo, with_probability or bool(self.operations))

    def probability(self, image: Image) -> NDArray[np.float32]:
        """The mean probability (H, W), 0..1, of one photograph (H, W, 3) RGB."""
        return self._probability(self.prepare(image))

    def mask(self, image: Image, view: str = "") -> masks.Mask:
        """The mask (H, W) of one photograph (H, W, 3) RGB; only `best_members` uses its view."""
        (outcome,) = self.outcomes([self.prepare(image)])
        return self.cut(outcome, view)

    def cut(self, outcome: "Outcome", view: str) -> masks.Mask:
        """The mask (H, W) from the members' outcome. Every mask of an ensemble is made here."""
        if not self.operations:
            return outcome.mask  # exact, on integers
        assert outcome.probability is not None
        return repair(outcome.probability, view, self.operations, self.mean_of(outcome.photo))

    def predict_dice(self, outcome: "Outcome", mask: masks.Mask) -> DiceRange | None:
        """The Dice that the mask of an outcome with its probability probably has; None if nothing was learned of it."""
        if self.predicted_dice is None:
            return None
        assert outcome.probability is not None
        return predict_dice(self.predicted_dice, expected_dice(outcome.probability, mask))

    def mean_of(self, photo: "Photograph") -> MeanOf:
        """A function that returns the mean of some recipes' members; of all members if those recipes have none.

        There is no early exit: each of these members sees the photograph.
        """

        def probability(recipes: tuple[str, ...]) -> NDArray[np.float32]:
            chosen = tuple(member for member in self.members if member.record.recipe in recipes)
            return replace(self, members=chosen or self.members, early_exit=None)._probability(photo)

        return probability

    def _probability(self, photo: "Photograph") -> NDArray[np.float32]:
        (outcome,) = self.outcomes([photo], with_probability=True)
        assert outcome.probability is not None
        return outcome.probability


@dataclass(frozen=True)
class Photograph:
    """What networks need of a photograph: its own size, and its pixels (h, w, 3) as each recipe's input."""

    height: int
    width: int
    inputs: Mapping[Input, Image]

    @property
    def pixels(self) -> int:
        """How many pixels the photograph has."""
        return self.height * self.width


class Outcome:
    """A photograph's mask (H, W), and its probability (H, W) if it is wanted, which come part by part."""

    def __init__(self, photo: Photograph, with_probability: bool) -> None:
        self.photo = photo
        self.mask = np.empty((photo.height, photo.width), bool)
        self.probability = np.empty(self.mask.shape, np.float32) if with_probability else None

    def take(self, rows: slice, mean: Mean) -> None:
        """Takes some rows from the members' mean for them."""
        if self.probability is not None:
            self.probability[rows] = mean.probability()
        self.mask[rows] = mean.mask()


def blocks(photos: Sequence[Photograph], sums: int = 1) -> list[slice]:
    """The rows of photographs whose sums fit into memory at a time: all of them, or parts of a very large photograph.

    Args:
        photos: one, or several that are small.
        sums: how many sums each pixel has.
    """
    height, width = max(photo.height for photo in photos), max(photo.width for photo in photos)
    step = max(1, BLOCK // width // sums) if len(photos) == 1 else height
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def prediction_cost(recipe: Recipe) -> int:
    """Multiply-accumulates of one member of a recipe for one photograph."""
    with torch.device("meta"):
        network = build(**recipe.network_options())
    size = (recipe.input.height, recipe.input.width)
    passes = (recipe.snapshots or 1) * (1 + recipe.tta.hflip) * (1 + recipe.tta.vflip)
    return passes * sum(macs(network, *scaled_size(size, scale, network)) for scale in recipe.tta.scales)


class Inputs:
    """What networks see of groups of photographs, four of a group at a time; made once for each recipe's input."""

    def __init__(self, groups: Sequence[Sequence[Photograph]]) -> None:
        self.sizes = [(photo.height, photo.width) for photos in groups for photo in photos]
        self._groups = groups
        self._batches: dict[Input, list[Tensor]] = {}

    def batches(self, spec: Input) -> list[Tensor]:
        """The batches (B, 3, h, w) on the device."""
        if spec not in self._batches:
            groups = ([photo.inputs[spec] for photo in photos] for photos in self._groups)
            self._batches[spec] = [batch for inputs in groups for batch in batches(inputs, spec, device())]
        return self._batches[spec]


def member_answers(member: Member, inputs: Inputs) -> Iterator[Answer]:
    """One member's answer to each photograph, computed in the precision that its recipe trains in."""
    recipe, target = member.recipe, device()
    network = member.network().to(target)
    precision = precision_of(recipe.compute.precision, target)
    align_corners = recipe.legacy.output_align_corners
    photos = inputs.batches(recipe.input)
    return answers(network, photos, inputs.sizes, recipe.input, recipe.tta, align_corners, precision)


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
    if config is None:
        return EnsembleModel(ordered, weights)
    rule = config.early_exit.rule if config.early_exit else None
    return EnsembleModel(ordered, weights, config.postprocessing, rule, config.predicted_dice)


def write_ensemble(folder: Path, config: Ensemble, members: Sequence[Member]) -> None:
    """Writes what `load_ensemble` reads: `ensemble.yaml`, and each member's record, recipe, weights and ONNX graph."""
    (folder / CONFIG).parent.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(dump_yaml(config), encoding="utf-8")
    for member in members:
        target = folder / MEMBERS / member.name
        target.mkdir(parents=True)
        for name in (RECORD, RECIPE, WEIGHTS, *([ONNX] if member.record.onnx else [])):
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
