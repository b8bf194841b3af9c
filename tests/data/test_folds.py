from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError, DataError, PlanError
from backdrop.config.explain import as_choice
from backdrop.config.folds import By, Rule
from backdrop.data import folds
from backdrop.data.dataset import open_dataset, read_mask
from backdrop.data.folds import FoldPlan
from backdrop.steps.split import split

AREAS = st.dictionaries(st.text("abcdef0123456789", min_size=1, max_size=6), st.integers(1, 10**6), min_size=8)
RULES = st.builds(
    Rule,
    folds=st.integers(1, 5),
    holdout=st.sampled_from([0.0, 0.15, 0.3]),
    by=st.sampled_from(["area", "area_rank", "stratified", "random"]),
    seed=st.integers(0, 99),
)


@given(AREAS, RULES)
@settings(deadline=None)  # the first stratified split pays for scikit-learn's import
def test_every_object_has_one_place_and_folds_are_of_one_size(areas: dict[str, float], rule: Rule) -> None:
    placed = folds.assign(areas, rule)
    assert set(placed) == set(areas)
    sizes = [list(placed.values()).count(fold) for fold in range(rule.folds)]
    assert min(sizes) >= 1
    if rule.by != "stratified":  # which evens out each class of its own
        assert max(sizes) - min(sizes) <= 1
    held = list(placed.values()).count(None)
    assert held == (max(1, round(rule.holdout * len(areas))) if rule.holdout else 0)


@given(AREAS, AREAS, RULES)
@settings(max_examples=200, deadline=None)
def test_extending_moves_no_object(old: dict[str, float], new: dict[str, float], rule: Rule) -> None:
    first = folds.assign(old, rule)
    second = folds.assign(new | old, rule, first)
    assert {name: second[name] for name in old} == first
    assert set(second) == set(new | old)
    assert list(second.values()).count(None) >= list(first.values()).count(None)


@given(AREAS, AREAS, RULES, st.data())
@settings(max_examples=200, deadline=None)
def test_extending_without_objects_that_are_gone_fills_their_folds(
    old: dict[str, float], new: dict[str, float], rule: Rule, data: st.DataObject
) -> None:
    first = folds.assign(old, rule)
    gone = data.draw(st.sets(st.sampled_from(sorted(old))))
    left = {name: fold for name, fold in first.items() if name not in gone}
    areas = {name: area for name, area in (new | old).items() if name not in gone}
    try:
        second = folds.assign(areas, rule, first)
    except PlanError:  # only if there are too few new ones
        held = round(rule.holdout * len(areas)) + 1
        assert len(areas.keys() - left.keys()) < rule.folds + held
    else:
        assert {name: second[name] for name in left} == left
        assert {*range(rule.folds)} <= {*second.values()}


@given(AREAS, RULES)
@settings(deadline=None)  # the first stratified split pays for scikit-learn's import
def test_extending_by_nothing_changes_nothing(areas: dict[str, float], rule: Rule) -> None:
    placed = folds.assign(areas, rule)
    assert folds.assign(areas, rule, placed) == placed


def test_the_holdout_has_one_object_of_each_block_of_the_area_ranking() -> None:
    areas = {f"car{i:03d}": float(i) for i in range(100)}
    placed = folds.assign(areas, Rule(5, 0.2, "area", 3))
    held = sorted(areas[name] for name, fold in placed.items() if fold is None)
    assert [int(area) // 5 for area in held] == list(range(20))


def test_area_rank_is_the_winners_rule() -> None:
    areas = {"a": 5.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 4.0}
    assert folds.assign(areas, Rule(2, 0, "area_rank", 0)) == {"b": 0, "d": 1, "c": 0, "e": 1, "a": 0}


def test_area_ranks_of_photographs_agree_with_numpy(make_dataset: Callable[..., Path]) -> None:
    data = make_dataset(objects=9, views=3)
    (data / "train" / "car04_01.jpg").unlink()  # an object with fewer views is no smaller object
    ranks = {}
    for view in (None, "02"):
        means = {}
        for name in [f"car{i:02d}" for i in range(9)]:
            paths = sorted((data / "train_masks").glob(f"{name}_{view or '*'}_mask.png"))
            paths = [path for path in paths if "car04_01" not in path.name]
            means[name] = np.mean([(cv2.imread(str(path), 0) > 127).sum(dtype=np.float64) for path in paths])
        order = np.argsort(np.array(list(means.values()), np.float64), kind="stable")
        ranks[view] = {list(means)[i]: rank % 4 for rank, i in enumerate(order)}
        plan = folds.make_plan(open_dataset(data), Rule(4, 0, "area_rank", 0, view))
        assert plan.assignment() == ranks[view]
    assert ranks[None] != ranks["02"]


def test_an_object_without_the_view_is_named(make_dataset: Callable[..., Path]) -> None:
    data = make_dataset(objects=5, views=2)
    (data / "train" / "car03_02.jpg").unlink()
    with pytest.raises(PlanError, match=r"Object car03 has no photograph of view 02\. Name a view"):
        folds.make_plan(open_dataset(data), Rule(2, 0, "area_rank", 0, "02"))
    with pytest.raises(PlanError, match="split by random doesn't use a view"):
        folds.make_plan(open_dataset(data), Rule(2, 0, "random", 0, "01"))


def reference_classes(areas: dict[str, float], least: int) -> dict[str, int]:
    """The winners' classes by numpy's histogram, merged by walking over its bins."""
    values = np.array(list(areas.values()), np.float64)
    counts, edges = np.histogram(values, bins=35)
    bounds, held = [0], 0
    for i, count in enumerate(counts, start=1):
        held += count
        if held >= least:
            bounds.append(i)
            held = 0
    if len(bounds) > 1:
        bounds.pop()  # what is left over goes to the last class
    lows = [edges[i] for i in bounds]
    return {name: int(np.searchsorted(lows, area, side="right")) - 1 for name, area in areas.items()}


# Of 35 bins as wide as a multiple of 7, so that no area lies on an edge that two roundings could see differently.
BINNED = st.lists(st.integers(0, 34), min_size=6, max_size=120).map(
    lambda bins: {f"car{i:03d}": 770.0 + 70 * b + 35 for i, b in enumerate(bins)} | {"low": 770.0, "high": 3220.0}
)


@given(BINNED, st.integers(2, 7), st.integers(0, 9))
@settings(deadline=None)
def test_each_fold_has_its_share_of_every_area_class(areas: dict[str, float], count: int, seed: int) -> None:
    placed = folds.assign(areas, Rule(count, 0, "stratified", seed))
    classes = reference_classes(areas, count)
    counts = Counter((classes[name], fold) for name, fold in placed.items())
    for label, size in Counter(classes.values()).items():
        assert size >= count
        shares = [counts[label, fold] for fold in range(count)]
        assert max(shares) - min(shares) <= 1


def test_stratified_folds_are_drawn_by_their_seed() -> None:
    areas = {f"car{i:03d}": float(i) for i in range(60)}
    draws = [folds.assign(areas, Rule(3, 0.2, "stratified", seed)) for seed in (5, 5, 6, -1)]
    assert draws[0] == draws[1] != draws[2]
    held = [sorted(areas[name] for name, fold in draw.items() if fold is None) for draw in draws]
    assert all(low // 5 < high // 5 for low, high in pairwise(held[0]))  # one of each block of five


def test_a_new_object_joins_the_fold_that_has_the_fewest_of_its_class() -> None:
    small, large = {f"s{i}": 1.0 for i in range(4)}, {f"l{i}": 100.0 for i in range(4)}
    kept = {"s0": 0, "s1": 0, "s2": 1, "l0": 1, "l1": 1, "l2": 1, "l3": 0}
    placed = folds.assign(small | large | {"l4": 99.0, "l5": 100.0}, Rule(2, 0, "stratified", 0), kept)
    # Of the small ones fold 0 has two and fold 1 one; of the large ones one and three.
    assert {name: placed[name] for name in ("s3", "l4", "l5")} == {"s3": 1, "l4": 0, "l5": 0}


def test_area_blocks_by_hand() -> None:
    areas = {"a": 10.0, "b": 9.0, "c": 7.0, "d": 6.0, "e": 1.0}
    # a, b go to folds 0, 1 (sums 10, 9); c, the larger of its block, to fold 1 (16), d to 0 (16); e to fold 0.
    assert folds.assign(areas, Rule(2, 0, "area", 0)) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}


def test_a_seed_draws_another_holdout_but_the_same_seed_the_same() -> None:
    areas = {f"car{i:03d}": float(i) for i in range(60)}
    draws = [folds.assign(areas, Rule(3, 0.2, "area", seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_plan_round_trips_with_its_header_and_areas(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.csv"
    record = split(str(data), str(out), Rule(folds=2, holdout=0.2))
    text = out.read_text()
    assert text.startswith(f"# backdrop-plan v2 data={record.data}\nimage,object,view,area,fold\ncar00_01,car00,01,")
    plan = folds.read_plan(out)
    assert folds.dump_plan(plan) == out.read_bytes()
    for row in plan.rows:
        assert row.area == read_mask(data / "train_masks" / f"{row.image}_mask.png").sum()
    assert sum(record.objects.values()) == 6


def test_objects_takes_the_first_by_name(data: Path, tmp_path: Path) -> None:
    split(str(data), str(tmp_path / "plan.csv"), Rule(folds=2, holdout=0.25), objects=4)
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
    split(str(data), old, Rule(folds=2, holdout=0.2))
    make_dataset(9)
    split(str(data), new, Rule(folds=2, holdout=0.2), extend=old)
    before, after = folds.read_plan(old).assignment(), folds.read_plan(new).assignment()
    assert before.items() <= after.items()
    assert len(after) == 9


@given(AREAS, RULES, RULES)
@settings(deadline=None)
def test_a_further_scheme_has_the_first_ones_holdout(areas: dict[str, float], first: Rule, second: Rule) -> None:
    rows = tuple(folds.Row(f"{name}_01", name, "01", int(area), None) for name, area in areas.items())
    assignments = folds.assign(areas, first)
    own = FoldPlan("d", tuple(folds.Row(r.image, r.object, r.view, r.area, assignments[r.object]) for r in rows))
    other = folds.refold(own, second)
    assert (other.holdout, other.data) == (own.holdout, own.data)
    assert other.folds == list(range(second.folds))
    assert [row.image for row in other.rows] == [row.image for row in own.rows]


def test_holdout_from_takes_objects_and_holdout(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data = str(make_dataset(9))
    own, other = str(tmp_path / "own.csv"), str(tmp_path / "other.csv")
    split(data, own, Rule(folds=3, holdout=0.25), objects=8)
    split(data, other, Rule(folds=2, by="random", seed=3), holdout_from=own)
    first, second = folds.read_plans([own, other])
    assert second.holdout == first.holdout != []
    assert second.folds == [0, 1]
    assert second.rows[0].area == first.rows[0].area
    with pytest.raises(PlanError, match="--objects doesn't go with --holdout-from"):
        split(data, other, objects=5, holdout_from=own)
    with pytest.raises(PlanError, match="don't fill 7 folds"):
        split(data, other, Rule(folds=7), holdout_from=own)
    next(iter(Path(data, "train_masks").iterdir())).write_bytes(
        Path(data, "train_masks/car08_02_mask.png").read_bytes()
    )
    with pytest.raises(PlanError, match="was made for data"):
        split(data, other, holdout_from=own)


def test_extend_says_which_objects_are_gone(
    make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, old, new = make_dataset(objects=5, views=1), str(tmp_path / "old.csv"), str(tmp_path / "new.csv")
    split(str(data), old, Rule(folds=2, holdout=0.2))
    split(str(data), new, Rule(folds=2, holdout=0.2), extend=old)
    assert capsys.readouterr().err == ""
    for number, name in enumerate(sorted(open_dataset(data).photos)):
        for path in data.glob(f"train*/{name}*"):
            path.rename(path.with_name(f"renamed-{path.name}"))
        split(str(data), new, Rule(folds=2, holdout=0.2), extend=old)
        which = f"{number + 1} of 5" if number < 4 else "all"
        first = folds.read_plan(old).rows[0].object
        assert f"aren't in {data} any more ({which}, such as {first})" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["area", "area_rank", "stratified", "random"])
def test_a_further_scheme_is_extended_beside_the_first(
    make_dataset: Callable[..., Path], tmp_path: Path, by: By
) -> None:
    own, other, new_own, new_other = (str(tmp_path / f"{name}.csv") for name in ("a", "b", "a2", "b2"))
    data = str(make_dataset(8))
    split(data, own, Rule(folds=3, holdout=0.25))
    split(data, other, Rule(folds=2, by=by), holdout_from=own)
    make_dataset(13)
    split(data, new_own, Rule(folds=3, holdout=0.25), extend=own)
    split(data, new_other, Rule(folds=2, by=by), holdout_from=new_own, extend=other)
    before, after = folds.read_plan(other).assignment(), folds.read_plan(new_other).assignment()
    assert before.items() <= after.items()
    assert len(after) == 13
    assert len(folds.read_plans([new_own, new_other])[1].holdout) > len(folds.read_plan(other).holdout)


def test_an_older_plan_with_another_holdout_is_no_further_schemes(data: Path, tmp_path: Path) -> None:
    own, old = str(tmp_path / "own.csv"), str(tmp_path / "old.csv")
    split(str(data), own, Rule(folds=2, holdout=0.3, by="random", seed=1))
    split(str(data), old, Rule(folds=2, holdout=0.3, by="random", seed=2))
    with pytest.raises(PlanError, match=r"The older plan (holds out|trains on) car0\d, which the plan of"):
        split(str(data), str(tmp_path / "out.csv"), Rule(folds=2), holdout_from=own, extend=old)
    assert not (tmp_path / "out.csv").exists()


def test_plans_of_one_ensemble_share_data_and_holdout(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data = str(make_dataset(6))
    own, held, fewer = (str(tmp_path / name) for name in ("own.csv", "held.csv", "fewer.csv"))
    split(data, own, Rule(folds=2, holdout=0.3, by="random", seed=1))
    split(data, held, Rule(folds=2, holdout=0.3, by="random", seed=2))
    split(data, fewer, Rule(folds=2, holdout=0.3), objects=5)
    assert [plan.folds for plan in folds.read_plans(own)] == [[0, 1]]
    with pytest.raises(PlanError, match=r"held.csv holds out other objects than .*own.csv\. .*--holdout-from"):
        folds.read_plans([own, held])
    with pytest.raises(PlanError, match=r"fewer.csv was made for other data than .*own.csv"):
        folds.read_plans([own, fewer])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(6, 0.15, "area", 0), "6 objects, 1 of them held out, don't fill 6 folds"),
        (Rule(0, 0.15, "area", 0), "0 folds"),
        (Rule(2, 1.0, "area", 0), "holdout of 1.0"),
        (Rule(2, 0.15, "area", 0, "01"), "doesn't use a view"),
    ],
)
def test_rules_that_cannot_be_are_refused(data: Path, rule: Rule, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        folds.make_plan(open_dataset(data), rule)


def test_an_older_plan_with_other_folds_is_refused(data: Path) -> None:
    old = folds.make_plan(open_dataset(data), Rule(2, 0.15, "area", 0))
    with pytest.raises(PlanError, match=r"older plan has 2 folds, not 3\. Use --folds 2"):
        folds.make_plan(open_dataset(data), Rule(3, 0.15, "area", 0), old=old)


HEAD = "# backdrop-plan v2 data=x\nimage,object,view,area,fold\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "isn't a fold plan"),
        ("# backdrop-plan v2 data=x\nimage,object\n", "columns"),
        ("# backdrop-plan v2 data=x\nimage,object,view,area,fold\na_1,a,1,many,0\n", "damaged"),
        ("# backdrop-plan v2 data=x\nimage,object,view,area,fold\n", "places no object"),
        (
            f"{HEAD}a_1,a,1,5,0\na_2,a,2,5,1\n",
            r"plan.csv is damaged \(it puts a into fold 0 in line 3 and fold 1 in line 4\)",
        ),
        (
            f"{HEAD}b_1,b,1,5,0\na_1,a,1,5,holdout\na_2,a,2,5,1\n",
            "it puts a into holdout in line 4 and fold 1 in line 5",
        ),
        (f"{HEAD}a_1,a,1,5,0\na_1,a,1,5,0\n", r"\(line 4 lists a_1 again, after line 3\). Make one with"),
        (f"{HEAD}a_1,a,2,5,0\n", r"\(line 3: image a_1 isn't view 2 of object a\)"),
        (f"{HEAD}a_1,b,1,5,0\n", "line 3: image a_1 isn't view 1 of object b"),
        (f"{HEAD}a_1,a,1,5,-1\n", "line 3: area 5 or fold -1 is not a whole number"),
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
    assert as_choice("--by", "area_rank", By) == "area_rank"
    with pytest.raises(ConfigError, match=r"--by can't be randm\. Did you mean random\?"):
        as_choice("--by", "randm", By)
