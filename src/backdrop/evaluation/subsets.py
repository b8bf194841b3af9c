"""The Dice of an ensemble without some of its members, from the exact sums of all of them.

Where every network's probability exceeds one half, each weighted mean of some of them does, and where none does, none
does. So only the pixels on which they disagree are computed for each part, mostly a narrow band along the outline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backdrop.data.masks import Mask, Overlap
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.mean import ONE, quantize
from backdrop.inference.member import Member

MOST_RECIPES = 10  # of which all sets are judged, about a thousand

# Recipes' names, sorted.
Recipes = tuple[str, ...]
# The weighted sums that are counted: of some recipes, each with one weight for all its members.
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Subsets:
    """A photograph's Dice, 0..1, by parts of the ensemble: of the mask p > 0.5, with neither operations nor early exit.

    `whole` is that of all members that may judge it. `without` has that of all but one: without each member on the
    holdout, and out of fold without each recipe. `sets` has that of each set of recipes, out of fold only.
    """

    whole: float
    without: Mapping[str, float]
    sets: Mapping[Recipes, float]


def recipe_sets(recipes: Sequence[str]) -> list[Recipes]:
    """Sets of recipes to judge: all, except of more than ten recipes. Then each alone, all but one, and all."""
    names, count = sorted(set(recipes)), len(set(recipes))
    sizes = range(1, count + 1) if count <= MOST_RECIPES else (1, count - 1, count)
    return [some for size in sizes for some in combinations(names, size)]


class Band:
    """The pixels of some rows of a photograph on which networks disagree, and the truth there."""

    def __init__(self, truth: Mask) -> None:
        """Begins with no network; `truth` is (H, W)."""
        self._truth, self._some, self._every = truth, np.zeros_like(truth), np.ones_like(truth)

    def see(self, mask: Mask) -> None:
        """Takes a network's own mask (H, W) into account."""
        self._some |= mask
        self._every &= mask

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Flat indices of the pixels, once all networks were seen."""
        return np.flatnonzero(self._some & ~self._every)

    def count(self, overlap: Overlap, mask: Tensor) -> None:
        """Counts all pixels, given a mask at the places; elsewhere the networks agree on it."""
        overlap.add(mask.cpu().numpy(), self._truth_there)
        overlap.common += self._agreed.common
        overlap.total += self._agreed.total

    @cached_property
    def _truth_there(self) -> Mask:
        return self._truth.ravel()[self.places]

    @cached_property
    def _agreed(self) -> Overlap:
        agreed = Overlap()
        agreed.add(self._every, self._truth & ~(self._some & ~self._every))
        return agreed


class SetDice:
    """The Dice of sets of recipes for one photograph, whose rows may come block by block."""

    def __init__(self, model: EnsembleModel) -> None:
        """Begins with no rows; `model` are the members that may judge the photograph, one or more of each recipe."""
        self._halves = _halves(model)
        self._sets = recipe_sets([member.record.recipe for member in model.members])
        chosen = [[m for m in model.members if m.record.recipe in some] for some in self._sets]
        self._weights = np.stack([_weights(model, members) for members in chosen])
        self._overlaps = [Overlap() for _ in self._sets]

    def add(self, band: Band, sums: Mapping[str, Tensor]) -> None:
        """Counts some rows.

        Args:
            band: the rows' pixels on which the members disagree.
            sums: of each recipe's probabilities in units of 2^-24, (H, W) float64.
        """
        values = _above(sums, self._halves, band.places)
        for weights, overlap in zip(self._weights, self._overlaps, strict=True):
            band.count(overlap, _weigh(weights, values) > 0)

    def subsets(self) -> Subsets:
        """The Dice of all rows."""
        dice = {some: overlap.dice() for some, overlap in zip(self._sets, self._overlaps, strict=True)}
        whole = tuple(self._halves)
        rest = {name: tuple(other for other in whole if other != name) for name in whole}
        return Subsets(dice[whole], {name: dice[some] for name, some in rest.items() if some}, dice)


class MemberDice:
    """The Dice without each member for one photograph, whose rows may come block by block."""

    def __init__(self, model: EnsembleModel) -> None:
        """Begins with no rows; `model` are all members."""
        self._halves, self._whole = _halves(model), Overlap()
        self._all = _weights(model, model.members)
        self._without = {member.name: Overlap() for member in model.members} if len(model.members) > 1 else {}
        firsts = {member.record.recipe: member for member in model.members}
        # Members of a recipe have one weight, so it doesn't matter which of them is missing.
        self._weights = {
            name: _weights(model, [member for member in model.members if member != firsts[name]])
            for name in self._halves
            if self._without
        }
        self._rests: dict[str, tuple[Tensor, float]] = {}

    def add(self, band: Band, sums: Mapping[str, Tensor]) -> None:
        """Counts some rows for all members, as `SetDice.add`; `add_without` of each member must follow."""
        values = _above(sums, self._halves, band.places)
        band.count(self._whole, _weigh(self._all, values) > 0)
        for place, (name, weights) in enumerate(self._weights.items()):
            own = float(weights[place])
            self._rests[name] = _weigh(weights, values) + own * (ONE // 2), own

    def add_without(self, band: Band, member: Member, probability: Tensor) -> None:
        """Counts the same rows without a member, given its probability (H, W) there."""
        if self._without:
            rest, own = self._rests[member.record.recipe]
            values = rest - own * quantize(_at(probability, band.places)).double()
            band.count(self._without[member.name], values > 0)

    def subsets(self) -> Subsets:
        """The Dice of all rows."""
        without = {name: overlap.dice() for name, overlap in self._without.items()}
        return Subsets(self._whole.dice(), without, {})


def _halves(model: EnsembleModel) -> dict[str, int]:
    """What each recipe's sum must exceed for its mean to exceed one half, by name, sorted."""
    names = [member.record.recipe for member in model.members]
    return {name: names.count(name) * (ONE // 2) for name in sorted(names)}


def _weights(model: EnsembleModel, members: Sequence[Member]) -> Weights:
    """The weight of each of the model's recipes, sorted by name, in an ensemble of some members; 0 if it has none."""
    part = replace(model, members=tuple(members))
    known = {member.record.recipe: weight for member, weight in zip(members, part.weights(), strict=True)}
    return np.array([known.get(name, 0) for name in _halves(model)], np.float64)


def _above(sums: Mapping[str, Tensor], halves: Mapping[str, int], places: NDArray[np.int64]) -> Tensor:
    """By how much each recipe's sum exceeds one half of its members, (recipes, places) float64."""
    return torch.stack([_at(sums[name], places) - half for name, half in halves.items()])


def _weigh(weights: Weights, values: Tensor) -> Tensor:
    """Weighted sums: of whole numbers below 2^53, so that they are exact in any order."""
    return torch.from_numpy(weights).to(values.device) @ values


def _at(values: Tensor, places: NDArray[np.int64]) -> Tensor:
    return values.reshape(-1)[torch.from_numpy(places).to(values.device)]
