"""The Dice of parts of an ensemble: to the last bit that of an ensemble of this part."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.config import find_recipe
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.data.masks import binarize, dice
from backdrop.evaluation import scoring
from backdrop.evaluation.subsets import MOST_RECIPES, Band, MemberDice, SetDice, recipe_sets
from backdrop.inference import batch, ensemble
from backdrop.inference.ensemble import EnsembleModel, gather
from backdrop.inference.mean import Mean
from backdrop.inference.member import Member, read_member
from backdrop.steps.members import open_member
from tests.conftest import SMALL
from tests.tracking.workspace import write_member

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
HEIGHT, WIDTH = 9, 40


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    folder = tmp_path_factory.mktemp("members")
    made = []
    for name in WEIGHTS:
        recipe = find_recipe("tiny", ["input.size=16x16", "network.width=2", "network.depth=1", f"name={name}"])
        made += [read_member(write_member(folder / f"{name}-{fold}", recipe, "key", fold)) for fold in range(3)]
    return made


def mask_of(model: EnsembleModel, maps: dict[str, torch.Tensor]) -> np.ndarray:
    """The mask of an ensemble, as prediction makes it from its members' probabilities."""
    mean = Mean()
    for member, weight in zip(model.members, model.weights(), strict=True):
        mean.add(maps[member.name], weight)
    return mean.mask()


def draw(members: list[Member], seed: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Probabilities of which many agree and many are near one half, and a truth."""
    random = np.random.default_rng(seed)
    middle = random.choice([0.02, 0.5, 0.98], (HEIGHT, WIDTH), p=[0.3, 0.4, 0.3])
    spread = random.choice([2**-24, 1e-3, 0.3])
    maps = {
        member.name: torch.from_numpy(np.clip(middle + random.normal(0, spread, middle.shape), 0, 1).astype(np.float32))
        for member in members
    }
    return maps, random.random((HEIGHT, WIDTH)) < middle


def judge(part: SetDice | MemberDice, maps: dict[str, torch.Tensor], chosen: list[Member], truth: np.ndarray) -> None:
    """What scoring does, block by block."""
    for top in range(0, HEIGHT, 4):
        rows, sums, band = slice(top, top + 4), dict[str, Mean](), Band(truth[top : top + 4])
        for member in chosen:
            sums.setdefault(member.record.recipe, Mean()).add(maps[member.name][rows], 1)
            band.see(binarize(maps[member.name][rows]))
        part.add(band, {name: mean.total for name, mean in sums.items() if mean.total is not None})
        for member in chosen if isinstance(part, MemberDice) else []:
            part.add_without(band, member, maps[member.name][rows])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), chosen=st.sets(st.integers(0, 8), min_size=1))
def test_without_each_member_and_by_each_set_of_recipes_it_is_the_ensemble_without_the_others(
    members: list[Member], seed: int, chosen: set[int]
) -> None:
    there = [members[index] for index in sorted(chosen)]
    model, (maps, truth) = EnsembleModel(tuple(there), WEIGHTS), draw(there, seed)

    def dice_of(some: list[Member]) -> float:
        return dice(mask_of(replace(model, members=tuple(some)), maps), truth)

    alone = MemberDice(model)
    judge(alone, maps, there, truth)
    found = alone.subsets()
    assert found.whole == dice_of(there)
    rest = {member.name: [other for other in there if other != member] for member in there}
    assert found.without == ({name: dice_of(some) for name, some in rest.items()} if len(there) > 1 else {})

    grouped = SetDice(model)
    judge(grouped, maps, there, truth)
    found = grouped.subsets()
    names = sorted({member.record.recipe for member in there})
    sets = [some for size in range(1, len(names) + 1) for some in combinations(names, size)]
    assert found.sets == {some: dice_of([m for m in there if m.record.recipe in some]) for some in sets}
    assert found.whole == dice_of(there)
    others = {name: tuple(other for other in names if other != name) for name in names}
    assert found.without == {name: found.sets[some] for name, some in others.items() if some}


def test_of_many_recipes_only_a_few_sets_are_judged() -> None:
    names = [f"r{number:02}" for number in range(MOST_RECIPES + 1)]
    assert len(recipe_sets(names[:-1])) == 2**MOST_RECIPES - 1
    sizes = [len(some) for some in recipe_sets(names)]
    assert sizes == [1] * len(names) + [MOST_RECIPES] * len(names) + [len(names)]


LONGER = (*SMALL, "epochs=12")  # so that their masks differ
RECIPES = {"tiny": (), "other": ("name=other", "seed=1")}


@pytest.mark.parametrize("way", [pytest.param("whole", marks=pytest.mark.thorough), "in parts"])
def test_scoring_without_a_member_is_scoring_an_ensemble_without_it(
    data: Path, plan: Path, trained_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    dataset, folds = open_dataset(data), read_plan(plan)
    digests = verify(folds, dataset)
    trained = [trained_once(fold, (*LONGER, *more)) for more in RECIPES.values() for fold in (0, 1)]
    members = [open_member(address) for address in trained]
    if way == "in parts":
        monkeypatch.setattr(batch, "LARGE", 1)  # each photograph alone
        monkeypatch.setattr(ensemble, "BLOCK", 20 * 64 * 8)  # 20 rows of 8 sums
        monkeypatch.setattr(scoring, "ROOM", 0)  # and its answers are computed again

    def scores(some: list[Member]) -> scoring.Scored:
        model = replace(gather(some, None), recipe_weights={"tiny": 0.6, "other": 0.4})
        return scoring.score(dataset, scoring.judges([folds], digests, model), digests)

    def dices(some: list[Member], held: bool) -> dict[str, float]:
        return {one.image: one.dice for one in scores(some).scores if (one.fold is None) == held}

    found = scores(members)
    assert {name: one.whole for name, one in found.subsets.items()} == {one.image: one.dice for one in found.scores}
    for member in members:
        expected = dices([other for other in members if other != member], held=True)
        assert {image: found.subsets[image].without[member.name] for image in expected} == expected
    changed = set()
    for recipe in RECIPES:
        expected = dices([other for other in members if other.record.recipe != recipe], held=False)
        assert {image: found.subsets[image].without[recipe] for image in expected} == expected
        changed |= {image for image, dice in expected.items() if dice != found.subsets[image].whole}
        assert {image: found.subsets[image].sets[tuple({*RECIPES} - {recipe})] for image in expected} == expected
    assert changed  # another mean would have been seen
