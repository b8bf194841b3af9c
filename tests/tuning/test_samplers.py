"""Where schedules come from."""

import pytest

from backdrop.config import find_recipe, find_space
from backdrop.config.space import preset
from backdrop.tuning.samplers import Random, Tpe, entry
from backdrop.tuning.trial_store import Entry, Row, as_trial, judged

RECIPE = find_recipe("tiny")
SPACE = find_space("tiny", RECIPE)
PRESETS = [entry("000-own", preset(RECIPE))]


@pytest.mark.parametrize("kind", [Random, Tpe])
def test_presets_come_first_and_draws_depend_on_their_number(kind: type[Random]) -> None:
    first, second = (kind(SPACE, RECIPE, PRESETS, 9, seed=3) for _ in range(2))
    assert first.give(0, None) == PRESETS[0]
    drawn = [first.give(index, None) for index in range(1, 9)]
    assert [second.give(index, None) for index in (4, 2)] == [drawn[3], drawn[1]]
    assert len({one.model_dump_json() for one in drawn}) == 8
    assert [one.name[:4] for one in drawn] == [f"{index:03}-" for index in range(1, 9)]
    other = kind(SPACE, RECIPE, PRESETS, 9, seed=4)
    assert other.give(1, None) != drawn[0]


@pytest.mark.parametrize("kind", [Random, Tpe])
def test_what_was_drawn_before_is_drawn_again(kind: type[Random]) -> None:
    drawn = kind(SPACE, RECIPE, PRESETS, 9, seed=3).give(5, None)
    assert kind(SPACE, RECIPE, PRESETS, 9, seed=8).give(5, drawn.params) == drawn


def learned(seed: int, again: bool) -> list[Entry]:
    """What TPE draws when the rate alone matters; `again`: by another search that knows the first trials."""
    before, source = Tpe(SPACE, RECIPE, [], 40, seed), Tpe(SPACE, RECIPE, [], 40, seed)
    entries = []
    for index in range(40):
        one = before.give(index, None)
        dice = 1 - abs(float(one.values["lr"]) - 2e-2)
        before.tell(one, dice)
        if again:
            known = one.params if index < 20 else None
            assert source.give(index, known) == one
            source.tell(one, dice)
        entries.append(one)
    return entries


def test_tpe_learns_and_resumes_with_the_same_draws() -> None:
    rates = [float(one.values["lr"]) for one in learned(0, again=True)]
    far = [abs(rate - 2e-2) for rate in rates]
    assert sum(far[20:]) < 0.7 * sum(far[:20])


def row(fold: int, epoch: int, dice: float) -> Row:
    return Row(fold=fold, epoch=epoch, lr=0.1, loss=0.5, dice=dice, seconds=1.0, time_ms=epoch)


def test_a_trial_is_judged_by_the_best_epoch_of_each_fold() -> None:
    rows = [row(0, 0, 0.5), row(0, 1, 0.9), row(0, 2, 0.7), row(1, 0, 0.6), row(1, 1, 0.4)]
    assert judged(rows[:1]) == 0.5
    assert judged(rows) == pytest.approx((0.9 + 0.6) / 2)


def test_a_plateaus_rates_are_those_that_it_had() -> None:
    recipe = find_recipe("tiny", ["epochs=4", "schedule=[{kind: plateau, epochs: 4, lr: 0.1, patience: 1}]"])
    begun = Entry(name="0", family="plateau", override={}, rows=[row(0, 0, 0.9), row(0, 1, 0.8), row(0, 2, 0.7)])
    assert as_trial(begun, recipe).lrs == (0.1, 0.1, 0.1, 0.05)
    assert as_trial(begun.model_copy(update={"rows": ()}), recipe).lrs == (0.1,) * 4
