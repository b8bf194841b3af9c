import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.config import ExitRule, find_recipe
from backdrop.evaluation.early_exit import Judged, Trial, first_costs, fit, learn
from backdrop.evaluation.metrics import bootstrap, object_means
from backdrop.evaluation.predicted_dice import Known
from backdrop.evaluation.records import Score
from backdrop.inference.ensemble import gather
from backdrop.inference.member import read_member
from tests.tracking.workspace import write_member

ONE, TWO = ("a",), ("a", "b")
COSTS = {ONE: 0.1, TWO: 0.4}
VIEWS, FOLDS = 4, 3


def judged(objects: int, seed: int = 0, loss: float = 0.02, held: int = 12) -> list[Judged]:
    """Photographs of three recipes, where the first members lose more Dice the more they doubt."""
    random = np.random.default_rng(seed)
    result = []
    for number in range(objects + held):
        for view in range(VIEWS):
            doubt = float(random.uniform(0, 1))
            lost = loss * max(0.0, doubt - 0.5) ** 2 + random.normal(0, 1e-5)
            dice = 0.99
            score = Score(
                image=f"o{number}_{view}",
                object=f"o{number}",
                view=str(view),
                area=1,
                fold=number % FOLDS if number < objects else None,
                dice=dice,
                recipes=dict.fromkeys("abc", dice),
            )
            trials = {ONE: Trial(doubt, dice - lost, 0.9), TWO: Trial(doubt / 2, dice - lost / 2, 0.9)}
            result.append(Judged(score, trials, 0.9))
    return result


def folded(photos: Sequence[Judged]) -> list[Judged]:
    return [one for one in photos if one.score.fold is not None]


def lost(photos: Sequence[Judged], rule: ExitRule) -> dict[str, float]:
    return object_means((one.score.object, one.score.dice - one.by(rule).dice) for one in photos)


def saved(photos: Sequence[Judged], rule: ExitRule) -> float:
    means = object_means((one.score.object, 1 - COSTS[rule.first] if one.stopped(rule) else 0) for one in photos)
    return math.fsum(means.values()) / len(means)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), max_loss=st.sampled_from([1e-5, 1e-4, 3e-4, 1e-3]))
def test_the_rule_saves_most_of_those_that_lose_little_enough(seed: int, max_loss: float) -> None:
    photos = folded(judged(24, seed))
    rule = learn(photos, COSTS, max_loss)
    # The slow reference: each limit that is a photograph's own doubt, of every twentieth.
    doubts = {first: np.sort([one.trials[first].doubt for one in photos]) for first in COSTS}
    rules = [
        ExitRule(first=first, unconfidence_above=float(doubts[first][math.floor((len(photos) - 1) * step / 20)]))
        for first in COSTS
        for step in range(1, 21)
    ]
    good = [one for one in rules if bootstrap(lost(photos, one)).high <= max_loss]
    assert (rule is None) == (not good)
    if rule:
        assert rule in good
        assert saved(photos, rule) == pytest.approx(max(saved(photos, one) for one in good))


def test_a_photograph_stops_up_to_the_limit() -> None:
    one = judged(1)[0]
    doubt = one.trials[ONE].doubt
    for limit, stops in ((doubt, True), (math.nextafter(doubt, 0), False), (2.0, True)):
        rule = ExitRule(first=ONE, unconfidence_above=limit)
        assert (one.stopped(rule) is not None) == stops
        assert one.by(rule) == (replace(one.score, dice=one.trials[ONE].dice) if stops else one.score)
    assert one.by(None) == one.score
    assert one.by(ExitRule(first=("c",), unconfidence_above=9)) == one.score


@pytest.mark.parametrize("max_loss", [1e-5, 3e-4, 1.0])
def test_what_a_rule_saves_and_costs_is_measured_where_it_was_not_learned(max_loss: float) -> None:
    photos = judged(36)
    learned, rules = fit(photos, COSTS, max_loss)
    known, held = folded(photos), [one for one in photos if one.score.fold is None]
    measured = {fold: learn([one for one in known if one.score.fold != fold], COSTS, max_loss) for fold in range(FOLDS)}
    for part, by_fold, found in ((known, measured, learned.oof), (held, rules, learned.holdout)):
        assert found is not None
        used = [(one, by_fold[one.score.fold]) for one in part]
        assert (found.objects, found.images) == (len({one.score.object for one in part}), len(part))
        assert found.stopped == sum(one.stopped(rule) is not None for one, rule in used)
        saving = [1 - COSTS[rule.first] if rule and one.stopped(rule) else 0 for one, rule in used]
        assert found.saved.mean == pytest.approx(np.mean(saving))  # each object has as many views
        losing = [one.score.dice - one.by(rule).dice for one, rule in used]
        assert found.lost.mean == pytest.approx(np.mean(losing))


def test_without_loss_all_stop_at_the_cheapest_and_the_dearer_are_never_first_for_nothing() -> None:
    learned, rules = fit(judged(36, loss=0.0), COSTS, 1e-4)
    assert learned.rule is not None
    assert learned.rule.first == ONE
    assert learned.oof.saved.mean == pytest.approx(0.9, abs=0.02)
    assert learned.holdout is not None
    assert learned.holdout.saved.mean == pytest.approx(0.9, abs=0.02)
    assert rules[None] == learned.rule
    assert all(rules[fold] for fold in range(FOLDS))


def test_fewer_than_twelve_objects_teach_nothing() -> None:
    assert learn(folded(judged(11, loss=0.0)), COSTS, 0.1) is None
    assert learn(folded(judged(12, loss=0.0)), COSTS, 0.1) is not None
    learned, rules = fit(judged(15, loss=0.0), COSTS, 0.1)  # ten objects in two folds
    assert learned.rule is None
    assert learned.oof.stopped == 0
    assert set(rules.values()) == {None}
    assert learned.holdout is not None
    assert learned.holdout.stopped == 0


def test_a_rule_that_would_lose_too_much_is_none() -> None:
    photos = [
        replace(one, trials={first: replace(trial, dice=0.5) for first, trial in one.trials.items()})
        for one in judged(36)
    ]
    learned, rules = fit(photos, COSTS, 1e-3)
    assert learned.rule is None
    assert set(rules.values()) == {None}


def test_no_fold_teaches_its_own_rule_and_the_holdout_none() -> None:
    photos = judged(36)
    _, rules = fit(photos, COSTS, 3e-4)

    def spoil(one: Judged, fold: int | None) -> Judged:
        if one.score.fold != fold:
            return one
        return replace(one, trials={first: Trial(0.0, 0.2, 0.9) for first in one.trials})

    for fold in range(FOLDS):
        spoiled = fit([spoil(one, fold) for one in photos], COSTS, 1.0)[1]
        assert spoiled[fold] == fit(photos, COSTS, 1.0)[1][fold]
    assert fit([spoil(one, None) for one in photos], COSTS, 3e-4)[1] == rules


def test_if_unseen_photographs_lose_too_much_there_is_no_rule() -> None:
    """Each object's loss is its own, but one of a fold's objects loses all that a rule may lose."""
    photos = judged(36, loss=0.0)
    bad = [
        replace(one, trials={first: Trial(0.0, 0.5, 0.9) for first in one.trials}) if one.score.object == "o0" else one
        for one in photos
    ]
    learned, rules = fit(bad, COSTS, 1e-3)
    assert learned.oof.lost.mean > 1e-3
    assert learned.oof.stopped > 0
    assert learned.rule is None
    assert set(rules.values()) == {None}


def test_only_photographs_that_all_recipes_judged_teach_and_very_large_ones_never_stop() -> None:
    photos = judged(36, loss=0.0)
    partly = [
        replace(one, score=replace(one.score, recipes={"a": 0.9}), trials={ONE: Trial(0.0, 0.1, 0.9)})
        if one.score.view == "0" and one.score.fold is not None
        else one
        for one in photos
    ]
    learned, _ = fit(partly, COSTS, 1e-4)
    assert learned.oof.images == 36 * (VIEWS - 1)
    large = [
        replace(one, trials={first: Trial(math.inf, trial.dice, 0.9) for first, trial in one.trials.items()})
        if one.score.view == "0"
        else one
        for one in photos
    ]
    learned, _ = fit(large, COSTS, 1e-4)
    assert learned.rule is not None
    assert learned.oof.stopped <= 36 * (VIEWS - 1)
    assert learn([one for one in folded(large) if one.score.view == "0"], COSTS, 1.0) is None


def test_the_order_of_photographs_does_not_matter() -> None:
    photos = judged(24, loss=0.001)
    assert fit(photos, COSTS, 1e-4) == fit(photos[::-1], COSTS, 1e-4)


def test_each_recipe_may_be_first_or_the_cheapest_together(tmp_path: Path) -> None:
    sizes = {"large": ("64x64", 2), "small": ("16x16", 1), "medium": ("32x32", 3)}
    members = []
    for name, (size, folds) in sizes.items():
        recipe = find_recipe("tiny", [f"name={name}", f"input.size={size}", "network.width=2", "network.depth=1"])
        members += [write_member(tmp_path / f"{name}-{fold}", recipe, "0" * 64, fold) for fold in range(folds)]
    model = gather([read_member(path) for path in members], None)
    costs = first_costs(model)
    assert list(costs) == [("small",), ("medium",), ("large",), ("small", "medium")]
    total = 16**2 + 3 * 32**2 + 2 * 64**2
    assert list(costs.values()) == pytest.approx([16**2 / total, 3 * 32**2 / total, 2 * 64**2 / total, 3328 / total])
    assert first_costs(replace(model, members=model.members[:2])) == {}


def test_the_prediction_of_dice_learns_from_what_a_rule_leads_to() -> None:
    one = Judged(judged(1)[0].score, {ONE: Trial(doubt=0.3, dice=0.95, expected=0.96)}, expected=0.98)
    stops, goes_on = (ExitRule(first=ONE, unconfidence_above=limit) for limit in (0.3, 0.29))
    assert one.known(stops) == Known("o0", expected=0.96, dice=0.95)
    for rule in (goes_on, ExitRule(first=TWO, unconfidence_above=1), None):
        assert one.known(rule) == Known("o0", expected=0.98, dice=0.99)
