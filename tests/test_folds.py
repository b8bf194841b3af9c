from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop import folds
from backdrop.dataset import open_dataset, read_mask
from backdrop.errors import DataError, PlanError
from backdrop.folds import By, FoldPlan, Rule
from backdrop.steps.split import split

AREAS = st.dictionaries(st.text("abcdef0123456789", min_size=1, max_size=6), st.integers(1, 10**6), min_size=8)
RULES = st.builds(
    Rule,
    folds=st.integers(1, 5),
    holdout=st.sampled_from([0.0, 0.15, 0.3]),
    by=st.sampled_from(["area", "area-rank", "random"]),
    seed=st.integers(0, 99),
)


@given(AREAS, RULES)
def test_every_object_has_one_place_and_folds_are_of_one_size(areas: dict[str, float], rule: Rule) -> None:
    placed = folds.place(areas, rule)
    assert set(placed) == set(areas)
    sizes = [list(placed.values()).count(fold) for fold in range(rule.folds)]
    assert max(sizes) - min(sizes) <= 1
    held = list(placed.values()).count(None)
    assert held == (max(1, round(rule.holdout * len(areas))) if rule.holdout else 0)


@given(AREAS, AREAS, RULES)
@settings(max_examples=200)
def test_extending_moves_no_object(old: dict[str, float], new: dict[str, float], rule: Rule) -> None:
    first = folds.place(old, rule)
    second = folds.place(new | old, rule, first)
    assert {name: second[name] for name in old} == first
    assert set(second) == set(new | old)
    assert list(second.values()).count(None) >= list(first.values()).count(None)


@given(AREAS, RULES)
def test_extending_by_nothing_changes_nothing(areas: dict[str, float], rule: Rule) -> None:
    placed = folds.place(areas, rule)
    assert folds.place(areas, rule, placed) == placed


def test_the_holdout_has_one_object_of_each_block_of_the_area_ranking() -> None:
    areas = {f"car{i:03d}": float(i) for i in range(100)}
    placed = folds.place(areas, Rule(5, 0.2, "area", 3))
    held = sorted(areas[name] for name, fold in placed.items() if fold is None)
    assert [int(area) // 5 for area in held] == list(range(20))


def test_area_rank_is_the_winners_rule() -> None:
    areas = {"a": 5.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 4.0}
    assert folds.place(areas, Rule(2, 0, "area-rank", 0)) == {"b": 0, "d": 1, "c": 0, "e": 1, "a": 0}


def test_area_blocks_by_hand() -> None:
    areas = {"a": 10.0, "b": 9.0, "c": 7.0, "d": 6.0, "e": 1.0}
    # a, b go to folds 0, 1 (sums 10, 9); c, the larger of its block, to fold 1 (16), d to 0 (16); e to fold 0.
    assert folds.place(areas, Rule(2, 0, "area", 0)) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}


def test_a_seed_draws_another_holdout_but_the_same_seed_the_same() -> None:
    areas = {f"car{i:03d}": float(i) for i in range(60)}
    draws = [folds.place(areas, Rule(3, 0.2, "area", seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_plan_round_trips_with_its_header_and_areas(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.csv"
    record = split(str(data), str(out), folds=2, holdout=0.2)
    text = out.read_text()
    assert text.startswith(f"# backdrop-plan v1 data={record.data}\nimage,object,view,area,fold\ncar00_01,car00,01,")
    plan = folds.read_plan(out)
    assert folds.dump_plan(plan) == out.read_bytes()
    for row in plan.rows:
        assert row.area == read_mask(data / "train_masks" / f"{row.image}_mask.png").sum()
    assert sum(record.objects.values()) == 6


def test_objects_takes_the_first_by_name(data: Path, tmp_path: Path) -> None:
    split(str(data), str(tmp_path / "plan.csv"), folds=2, holdout=0.25, objects=4)
    assert {row.object for row in folds.read_plan(tmp_path / "plan.csv").rows} == {f"car0{i}" for i in range(4)}


def test_the_plan_of_other_data_is_refused(data: Path, plan: Path) -> None:
    good = folds.read_plan(plan)
    assert len(folds.verify(good, open_dataset(data))) == 12
    mask = data / "train_masks" / "car00_01_mask.png"
    mask.write_bytes((data / "train_masks" / "car01_01_mask.png").read_bytes())
    with pytest.raises(PlanError, match="was made for data sha256:"):
        folds.verify(good, open_dataset(data))
    mask.unlink()
    with pytest.raises(DataError, match="has no mask"):
        folds.verify(good, open_dataset(data))


def test_extend_reads_the_older_plan(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data = make_dataset(6)
    old, new = str(tmp_path / "old.csv"), str(tmp_path / "new.csv")
    split(str(data), old, folds=2, holdout=0.2)
    make_dataset(9)
    split(str(data), new, folds=2, holdout=0.2, extend=old)
    before, after = folds.read_plan(old).assignment(), folds.read_plan(new).assignment()
    assert before.items() <= after.items()
    assert len(after) == 9


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(6, 0.15, "area", 0), "6 objects, 1 of them held out, don't fill 6 folds"),
        (Rule(0, 0.15, "area", 0), "0 folds"),
        (Rule(2, 1.0, "area", 0), "holdout of 1.0"),
    ],
)
def test_rules_that_cannot_be_are_refused(data: Path, rule: Rule, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        folds.make_plan(open_dataset(data), rule)


def test_an_older_plan_with_other_folds_is_refused(data: Path) -> None:
    old = folds.make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))
    with pytest.raises(PlanError, match=r"older plan has 2 folds, not 3\. Use --folds 2"):
        folds.make_plan(open_dataset(data), Rule(3, 0.15, "area", 0), old=old)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "is no fold plan"),
        ("# backdrop-plan v1 data=x\nimage,object\n", "columns"),
        ("# backdrop-plan v1 data=x\nimage,object,view,area,fold\na_1,a,1,many,0\n", "damaged"),
        ("# backdrop-plan v1 data=x\nimage,object,view,area,fold\n", "places no object"),
        ("# backdrop-plan v1 data=x\nimage,object,view,area,fold\na_1,a,1,5,0\na_2,a,2,5,1\n", "puts a into two folds"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        folds.read_plan(path)


def test_folds_of_a_plan(plan: Path) -> None:
    read: FoldPlan = folds.read_plan(plan)
    assert read.folds == [0, 1]
    assert {row.object for row in read.training(0)} == {row.object for row in read.validation(1)}
    assert not {row.object for row in read.holdout} & {row.object for row in read.training(0) + read.training(1)}
    with pytest.raises(PlanError, match="no fold 7"):
        read.training(7)


def test_orders_are_words_that_are_known() -> None:
    order: By = folds.as_by("area-rank")
    assert order == "area-rank"
    with pytest.raises(PlanError, match=r"Did you mean random\?"):
        folds.as_by("randm")
