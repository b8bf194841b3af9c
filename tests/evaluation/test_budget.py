"""What members add, and which of them a time budget has room for."""

import math
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError
from backdrop.config import find_ensemble, find_recipe
from backdrop.config.ensemble import EarlyExit, Ensemble
from backdrop.config.postprocessing import BestMembers, FillHoles
from backdrop.evaluation.budget import (
    Budget,
    as_budget,
    best_recipes,
    choose_members,
    is_choice,
    read_reasons,
    require_room,
    write_choice,
)
from backdrop.evaluation.contributions import compare_sets, contributions, front, set_dice
from backdrop.evaluation.metrics import bootstrap
from backdrop.evaluation.records import Estimate, Score, Speed
from backdrop.evaluation.subsets import MOST_RECIPES, Subsets
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.member import Member, read_member
from tests.tracking.workspace import write_member

FOLDS = 3
# Equal Dice and equal times occur, and times that don't add up exactly.
TIMES = st.sampled_from([0.001, 0.002, 0.003, 0.1])
DICES = st.sampled_from([0.9, 0.95, 0.97, 0.98])


def speed_of(seconds: dict[str, float]) -> Speed:
    return Speed(device="cpu", threads=2, photographs=4, size="64x48", seconds=seconds)


def all_sets(names: str) -> list[tuple[str, ...]]:
    return [some for size in range(1, len(names) + 1) for some in combinations(names, size)]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    folder = tmp_path_factory.mktemp("members")
    made = []
    for name, width in (("a", 2), ("b", 4), ("c", 6)):
        recipe = find_recipe("tiny", ["input.size=16x16", f"network.width={width}", "network.depth=1", f"name={name}"])
        made += [read_member(write_member(folder / f"{name}-{fold}", recipe, "key", fold)) for fold in range(FOLDS)]
    return made


@given(data=st.data())
def test_the_choice_fits_and_no_other_that_fits_is_better_or_as_good_and_cheaper(
    members: list[Member], data: st.DataObject
) -> None:
    dice = {some: Estimate(dice=data.draw(DICES), objects=9) for some in all_sets("abc")}
    seconds = {name: data.draw(TIMES) for name in "abc"}
    budget = data.draw(st.floats(min(seconds.values()), 1))
    recipes = best_recipes(budget, dice, seconds)
    chosen = choose_members(recipes, budget, seconds, members)

    def cost(counts: dict[str, int]) -> float:
        return math.fsum(seconds[name] for name, number in counts.items() for _ in range(number))

    counts = {name: sum(member.record.recipe == name for member in chosen) for name in "abc"}
    assert {name for name, number in counts.items() if number} == {*recipes}
    assert cost(counts) <= budget
    # By brute force: every number of folds of every recipe.
    for numbers in product(range(FOLDS + 1), repeat=3):
        other = {name: number for name, number in zip("abc", numbers, strict=True) if number}
        if other and cost(other) <= budget:
            assert dice[tuple(other)].dice <= dice[recipes].dice
            least = dict.fromkeys(other, 1), dict.fromkeys(recipes, 1)
            assert dice[tuple(other)].dice < dice[recipes].dice or cost(least[0]) >= cost(least[1])
    # No other member of these recipes fits.
    for name in recipes:
        assert counts[name] == FOLDS or cost({**counts, name: counts[name] + 1}) > budget
    names = {member.name for member in chosen}
    assert names == {f"{name}-{fold}" for name in recipes for fold in range(counts[name])}


@given(st.lists(st.tuples(DICES, TIMES), min_size=1, max_size=4))
def test_the_front_is_what_no_set_of_the_same_cost_or_less_is_as_good_as(values: list[tuple[float, float]]) -> None:
    names = "abcd"[: len(values)]
    random = np.random.default_rng(len(values))
    dice = {some: float(random.choice([0.9, 0.95, 0.97]) + values[0][0] / 100) for some in all_sets(names)}
    costs = {name: cost for name, (_, cost) in zip(names, values, strict=True)}
    found = front(dice, costs)

    def cost(some: tuple[str, ...]) -> float:
        return math.fsum(costs[name] for name in some)

    for some in dice:
        others = [other for other in dice if other != some and cost(other) <= cost(some) and dice[other] >= dice[some]]
        ties = [other for other in others if (cost(other), dice[other]) == (cost(some), dice[some])]
        assert (some in found) == (len(others) == len(ties) and all(some < other for other in ties))
    assert found == sorted(found, key=cost)


def test_a_budget_without_room_and_too_many_recipes_are_refused() -> None:
    speed = speed_of({"a": 0.0123, "b": 0.2})
    require_room(Budget(12.3, "out"), speed)
    for budget in (12.2, 0, -1, math.nan):
        with pytest.raises(ConfigError, match=r"a member of a takes 12.3 on cpu with 2 threads. Allow 12.3 or more"):
            require_room(Budget(budget, "out"), speed)
    many = {f"r{number}": 0.1 for number in range(MOST_RECIPES + 1)}
    with pytest.raises(ConfigError, match="chooses from 10 recipes at most, not from 11"):
        require_room(Budget(1e6, "out"), speed_of(many))


def test_one_option_needs_the_other() -> None:
    assert as_budget(None, None) is None
    assert as_budget(0.0, "out.yaml") == Budget(0.0, "out.yaml")
    with pytest.raises(ConfigError, match="--budget-ms needs --out-ensemble"):
        as_budget(5, None)
    with pytest.raises(ConfigError, match="--out-ensemble needs --budget-ms"):
        as_budget(None, "out")


def ensemble(members: list[Member]) -> Ensemble:
    recipes = {member.record.recipe: member.recipe for member in members}
    parts = [
        {"recipe": recipes["a"], "weight": 2},
        {"group": "rest", "weight": 3, "members": [{"recipe": recipes["b"], "weight": 2}, {"recipe": recipes["c"]}]},
    ]
    best = BestMembers(kind="best_members", unconfidence_above=1, recipes={"01": ("c",)})
    return Ensemble(
        name="cars",
        members=parts,
        postprocessing=(best, FillHoles(kind="fill_holes")),
        early_exit=EarlyExit(max_loss=0.1),
        gate={"minimum_dice": 0.7},
    ).resolve()


@pytest.mark.parametrize("recipes", [("a", "b"), ("c",)])
def test_the_chosen_ensemble_keeps_all_but_what_was_chosen_among_all(
    members: list[Member], tmp_path: Path, recipes: tuple[str, ...]
) -> None:
    config = ensemble(members)
    dice = {some: Estimate(dice=0.9 + len(some) / 100, objects=9) for some in all_sets("abc")}
    chosen = [member for member in members if member.record.recipe in recipes][:4]
    path = tmp_path / "budget.yaml"
    speed = speed_of({"a": 0.002, "b": 0.01, "c": 0.02})
    path.write_text(write_choice(config, Budget(25, str(path)), dice, speed, chosen))
    assert is_choice(path.read_bytes())
    found = find_ensemble(str(path))
    shares = {"a": 2 / 5, "b": 3 / 5 * 2 / 3, "c": 3 / 5 / 3}
    total = sum(shares[name] for name in recipes)
    assert found.weights() == pytest.approx({name: shares[name] / total for name in recipes})
    own = {member.record.recipe: member.recipe for member in members}
    assert [part.resolve() for part in found.parts()] == [own[name] for name in recipes]
    assert (found.gate, found.folds) == (config.gate, config.folds)
    assert [operation.kind for operation in found.postprocessing] == ["fill_holes"]
    assert (found.early_exit is not None) == (len(recipes) > 1)
    reasons = "\n".join(read_reasons(str(path)))
    for word in (
        "--budget-ms 25 from the members of ensemble cars",
        f"recipes {', '.join(recipes)}: ",
        "left out best",
    ):
        assert word in reasons
    assert " ".join(member.name for member in chosen) in reasons


def score(image: str, object_: str, fold: int | None, recipes: str) -> Score:
    return Score(image, object_, "01", 1, fold, 0.5, dict.fromkeys(recipes, 0.5))


def test_what_is_added_is_the_mean_over_objects_where_others_are_left(members: list[Member]) -> None:
    model = EnsembleModel(tuple(members[:6]), {})  # of a and b
    random = np.random.default_rng(0)
    scores, subsets, expected = [], {}, dict[str, list[float]]()
    for number in range(12):
        held = number % 3 == 0
        judges = "ab" if held or number % 2 else "a"  # b was trained on few folds
        for view in range(2):
            one = score(f"o{number}_{view}", f"o{number}", None if held else number % 3, judges)
            names = [member.name for member in model.members] if held else list(judges) if len(judges) > 1 else []
            without = {name: float(random.random()) for name in names}
            whole = float(random.random())
            sets = {} if held else {some: float(random.random()) for some in all_sets(judges)}
            scores.append(one)
            subsets[one.image] = Subsets(whole, without, sets)
            if not held and judges == "a":
                expected.setdefault(f"b o{number}", []).append(0.0)  # the same with b and without it
            for name, rest in without.items():
                expected.setdefault(f"{name} o{number}", []).append(whole - rest)
    found = contributions(scores, subsets, model)
    assert [(one.part, one.name) for one in found] == [
        *(("oof", name) for name in "ab"),
        *(("holdout", member.name) for member in model.members),
    ]
    for one in found:
        means = {key: float(np.mean(values)) for key, values in expected.items() if key.split()[0] == one.name}
        interval = bootstrap(means)
        assert one.without.objects == len(means)
        assert (one.added.mean, one.added.low, one.added.high) == pytest.approx(
            (interval.mean, interval.low, interval.high)
        )
    assert found[0].without.objects < found[1].without.objects  # without a, nobody is left on some
    assert found[0].cost < found[1].cost

    dice = set_dice(scores, subsets)
    both = [subsets[one.image].sets for one in scores if one.fold is not None and len(one.recipes) == 2]
    assert {some: one.dice for some, one in dice.items()} == pytest.approx(
        {some: float(np.mean([sets[some] for sets in both])) for some in all_sets("ab")}
    )
    shown = compare_sets(dice, model)
    assert [one.cost for one in shown] == sorted(one.cost for one in shown)
    assert {one.recipes for one in shown} == {*all_sets("ab")}
    assert shown[0].best
    assert compare_sets({("a",): Estimate(dice=0.9, objects=1)}, EnsembleModel(tuple(members[:3]), {})) == ()
