"""What operations add out of fold, against plain loops."""

import random
import statistics
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from backdrop.common.errors import MemberError
from backdrop.config.postprocessing import BestMembers, DropSmall, FillHoles, Operation, Threshold
from backdrop.data.folds import Row
from backdrop.evaluation.ablation import Case, Effect, choose_best, effects
from backdrop.evaluation.metrics import bootstrap
from backdrop.evaluation.records import Score
from backdrop.inference.postprocessing import MeanOf

FILL = FillHoles(kind="fill_holes", max_area=0.02)
DROP = DropSmall(kind="drop_small", min_area=0.02)
LOWER = Threshold(kind="threshold", level=0.35)


def nobody(names: tuple[str, ...]) -> np.ndarray:
    raise AssertionError("nobody asked for best members")


def case(name: str, view: str, fold: int | None, probability: np.ndarray, mean_of: MeanOf = nobody) -> Case:
    truth = np.zeros((20, 20), bool)
    truth[5:15, 5:15] = True
    return Case(Row(f"{name}_{view}", name, view, 100, fold), truth, probability.astype(np.float32), mean_of)


def answer(holes: int, specks: int) -> np.ndarray:
    """The truth with so many one-pixel holes, and so many one-pixel pieces away from it."""
    probability = np.full((20, 20), 0.1)
    probability[5:15, 5:15] = 0.9
    probability[6, 6 : 6 + 2 * holes : 2] = 0.2
    probability[1, 1 : 1 + 2 * specks : 2] = 0.8
    return probability


def cases(seed: int = 0, objects: int = 14) -> list[Case]:
    chance = random.Random(seed)
    return [
        case(f"car{i:02d}", view, i % 3, answer(chance.randrange(4), chance.randrange(4)))
        for i in range(objects)
        for view in ("01", "02", "03")[: chance.randint(1, 3)]
    ]


def counted_dice(mask: np.ndarray, truth: np.ndarray) -> float:
    pairs = list(zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True))
    return 2 * sum(a and b for a, b in pairs) / sum(a + b for a, b in pairs)


def by_hand(case: Case, filled: bool, dropped: bool) -> float:
    """Dice after holes and specks, which are where `answer` put them, are mended."""
    mask = case.probability > 0.5
    if filled:
        mask[6, 6:14] = True
    if dropped:
        mask[1] = False
    return counted_dice(mask, case.truth) - counted_dice(case.probability > 0.5, case.truth)


def test_each_operation_is_measured_alone_and_all_together() -> None:
    measured = effects(iter(cases()), [FILL, DROP])
    assert [effect.operation for effect in measured] == ["fill_holes", "drop_small", "all"]
    for effect, ways in zip(measured, [(True, False), (False, True), (True, True)], strict=True):
        groups = defaultdict(list)
        for one in cases():
            groups[one.row.object].append(by_hand(one, *ways))
        means = {name: statistics.fmean(group) for name, group in groups.items()}
        interval = bootstrap(means)
        assert effect.difference == pytest.approx(statistics.fmean(means.values()), abs=1e-12)
        assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
        assert effect.changed == sum(by_hand(one, *ways) != 0 for one in cases())
        assert (effect.objects, effect.images) == (14, len(cases()))
        assert effect.verdict == "helps"


def test_what_harms_hurts_and_what_does_nothing_is_no_evidence() -> None:
    measured = effects(cases(), [DropSmall(kind="drop_small", min_area=0), Threshold(kind="threshold", level=0.05)])
    assert [effect.verdict for effect in measured] == ["no evidence", "hurts", "hurts"]
    assert (measured[0].difference, measured[0].low, measured[0].high, measured[0].changed) == (0, 0, 0, 0)
    assert measured[1].changed == measured[1].images


def test_a_gain_on_few_of_the_objects_may_be_chance() -> None:
    one_better = [case(f"car{i:02d}", "01", 0, answer(int(i == 0), 0)) for i in range(20)]
    (effect, _) = effects(one_better, [FILL])
    assert effect.difference > 0
    assert effect.verdict == "no evidence"


@pytest.mark.parametrize(("objects", "verdict"), [(1, "no evidence"), (11, "no evidence"), (12, "helps")])
def test_few_objects_are_no_evidence(objects: int, verdict: str) -> None:
    (effect, _) = effects([case(f"car{i:02d}", "01", 0, answer(1, 0)) for i in range(objects)], [FILL])
    assert effect.verdict == verdict
    assert (effect.low is None) == (objects == 1)
    assert effect.difference == pytest.approx(1 - 2 * 99 / 199)


def test_the_order_of_photographs_does_not_matter() -> None:
    shuffled = random.Random(5).sample(cases(), len(cases()))
    assert effects(shuffled, [FILL, DROP]) == effects(cases(), [FILL, DROP])


def test_one_photograph_is_in_memory_at_a_time() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def stream() -> Iterator[Case]:
        for one in range(30):
            fresh = case(f"car{one}", "01", 0, answer(1, 1))
            alive.append(weakref.ref(fresh.probability))
            yield fresh
            del fresh
            assert sum(ref() is not None for ref in alive) <= 1  # effects' own loop variable

    assert effects(stream(), [FILL])[0].images == 30


def test_the_holdout_has_no_say() -> None:
    with pytest.raises(ValueError, match="car9_01 belongs to the holdout"):
        effects([*cases(), case("car9", "01", None, answer(1, 0))], [FILL])


def test_no_photographs_have_no_effect() -> None:
    with pytest.raises(ValueError, match="no objects"):
        effects([], [FILL])


def test_effects_survive_json() -> None:
    words = TypeAdapter(tuple[Effect, ...])
    measured = effects(cases(), [FILL, DROP])
    assert words.validate_json(words.dump_json(measured)) == measured


# --- Best members -----------------------------------------------------------------------------------------------------


def score(image: str, fold: int | None, **recipes: float) -> Score:
    name, _, view = image.rpartition("_")
    return Score(image, name, view, 100, fold, 0.5, recipes)


SCORES = [
    score("a_01", 0, x=0.99, y=0.5, z=0.5),
    score("b_01", 1, x=0.5, y=0.6, z=0.7),
    score("c_01", 2, x=0.5, y=0.6, z=0.7),
    score("a_02", 0, x=0.6, y=0.6, z=0.5),
]


def test_the_best_on_each_view_are_chosen_equals_by_name() -> None:
    assert choose_best(SCORES, 1, 0.1) == BestMembers(
        kind="best_members", unconfidence_above=0.1, recipes={"01": ("x",), "02": ("x",)}
    )
    assert choose_best(SCORES, 2, 0.1).recipes == {"01": ("x", "z"), "02": ("x", "y")}
    assert choose_best(SCORES[::-1], 2, 0.1).recipes == choose_best(SCORES, 2, 0.1).recipes


def test_the_holdout_and_what_not_all_have_judged_are_not_looked_at() -> None:
    more = [score("h_01", None, x=0.0, y=1.0, z=0.0), score("d_01", 3, y=1.0), score("d_03", 3, x=1.0, y=0.9)]
    assert choose_best([*SCORES, *more], 2, 0.1) == choose_best(SCORES, 2, 0.1)


@pytest.mark.parametrize("scores", [[], [score("h_01", None, x=1.0)], [score("a_01", 0, x=1.0), score("b_01", 1, y=1)]])
def test_without_common_photographs_there_is_nothing_to_choose_by(scores: list[Score]) -> None:
    with pytest.raises(MemberError, match="best_members can't be chosen"):
        choose_best(scores, 1, 0.1)


def doubtful(fold: int, asked: list[tuple[int, tuple[str, ...]]]) -> Case:
    """All members together find half of the object; z, or z with y, finds all, anybody else nothing."""

    def mean_of(names: tuple[str, ...]) -> np.ndarray:
        asked.append((fold, names))
        return np.where(case("", "", 0, answer(0, 0)).truth & ("z" in names), 0.9, 0.1).astype(np.float32)

    probability = answer(0, 0)
    probability[5:10, 5:15] = 0.45
    return case("abc"[fold], "01", fold, probability, mean_of)


def test_best_members_are_not_judged_by_what_they_were_chosen_from() -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    chosen = choose_best(SCORES, 1, 0.1)
    stream = [doubtful(fold, asked) for fold in (0, 1, 2)]
    measured = effects(stream, [chosen], SCORES)
    # Fold 0's own photograph speaks for x; without it z is the best. Without fold 1's or 2's, x is.
    assert asked == [(0, ("z",))] * 2 + [(1, ("x",))] * 2 + [(2, ("x",))] * 2
    before = 2 * 50 / 150
    assert measured[0].difference == pytest.approx((1 - before - before - before) / 3)
    assert measured[0] == measured[1].model_copy(update={"operation": "best_members"})
    assert measured[0].changed == 3


def test_what_is_not_doubtful_is_left_to_all_members() -> None:
    chosen = choose_best(SCORES, 1, 10.0)
    asked: list[tuple[int, tuple[str, ...]]] = []
    assert effects([doubtful(fold, asked) for fold in (0, 1, 2)], [chosen], SCORES)[0].changed == 0
    assert asked == []


def test_other_operations_follow_the_best_members() -> None:
    def mean_of(names: tuple[str, ...]) -> np.ndarray:
        return np.where(answer(2, 0) > 0.5, 0.45, 0.1).astype(np.float32)

    weak = [replace(doubtful(fold, []), mean_of=mean_of) for fold in (0, 1, 2)]
    operations: list[Operation] = [choose_best(SCORES, 1, 0.1), LOWER, FILL]
    assert effects(weak, operations, SCORES)[-1].difference == pytest.approx(1 - 2 * 50 / 150)


def test_best_members_need_the_scores_they_were_chosen_from() -> None:
    with pytest.raises(MemberError, match="best_members can't be chosen"):
        effects([doubtful(0, [])], [choose_best(SCORES, 1, 0.1)])
