"""The commands that the report gives: a shell splits them into what made the ensemble."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.config import find_recipe, shipped
from backdrop.config.catalog import changes
from backdrop.config.folds import Rule
from backdrop.config.network import Input
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import FoldPlan, dump_plan, follows, make_plan, read_plan, refold
from backdrop.data.pseudo_labels import Teacher
from backdrop.inference.member import read_member
from backdrop.report.lineage import Lineage, Source, lineage_section
from tests.tracking.workspace import write_member

SMALL = ["input.size=16x16", "network.width=2", "network.depth=1", "epochs=3"]
RULES = [Rule(2, 0.25, "area", 0), Rule(3, 0.2, "random", 7), Rule(2, 0.0, "area_rank", 0, "01"), Rule(2, 0.3)]


@pytest.fixture
def data(make_dataset: Any) -> Path:
    return Path(make_dataset(objects=12))


def lineage(data: Path, plans: list[FoldPlan], root: Path, rules: Any = (), settings: Any = SMALL) -> Lineage:
    recipe = find_recipe("tiny", settings)
    members = [read_member(write_member(root / str(fold), recipe, "c" * 64, fold)) for fold in (0, 1)]
    sources = [Source(f"runs:/{place}/member", member, 0) for place, member in enumerate(members)]
    return Lineage(str(data), 12, plans, rules, sources, None, "abc")


def options(command: str) -> dict[str, list[str]]:
    """What a command gives each of its options."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in shlex.split(command)[3:]:
        name = word if word.startswith("--") else name
        found.setdefault(name, [])
        found[name] += [] if word == name else [word]
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_known", [True, False])
def test_split_makes_the_same_plan_again(data: Path, tmp_path: Path, rule: Rule, is_known: bool) -> None:
    plan = make_plan(open_dataset(data), rule)
    command = lineage(data, [plan], tmp_path, [rule] if is_known else ()).commands()[0]
    if not is_known and command.startswith("#"):  # only a default rule can be guessed
        assert (rule.by, rule.seed) != ("area", 0)
        return
    given = options(command)
    view = given["--view"][0] if "--view" in given else None
    by: Any = given.get("--by", ["area"])[0]
    seed = int(given.get("--seed", ["0"])[0])
    again = Rule(int(given["--folds"][0]), float(given["--holdout"][0]), by, seed, view)
    assert make_plan(open_dataset(data), again) == plan


def test_a_plan_that_no_rule_makes_is_to_be_kept(data: Path, tmp_path: Path) -> None:
    plan = make_plan(open_dataset(data), RULES[0])
    first, last = plan.rows[0].object, plan.rows[-1].object
    swap = {first: plan.assignment()[last], last: plan.assignment()[first]}
    other = replace(plan, rows=tuple(replace(row, fold=swap.get(row.object, row.fold)) for row in plan.rows))
    assert other != plan
    assert not follows(other, RULES[0])
    command = lineage(data, [other], tmp_path, [RULES[0]]).commands()[0]
    assert command.startswith("# plan.csv (sha256 ")


def test_a_further_plan_takes_the_holdout_of_the_first(data: Path, tmp_path: Path) -> None:
    plan = make_plan(open_dataset(data), RULES[0])
    second = refold(plan, Rule(3, 0.25, "random", 5))
    made = lineage(data, [plan, second], tmp_path, [RULES[0], Rule(3, 0.25, "random", 5)])
    given = options(made.commands()[1])
    assert given["--holdout-from"] == ["plan.csv"]
    assert given["--out"] == ["plan-2.csv"]
    assert options(made.commands()[-1])["--plan"] == ["plan.csv", "plan-2.csv"]


def test_fewer_objects_are_named(data: Path, tmp_path: Path) -> None:
    plan = make_plan(open_dataset(data), Rule(2, 0.25), objects=8)
    assert options(lineage(data, [plan], tmp_path).commands()[0])["--objects"] == ["8"]


def test_train_makes_the_same_recipe_again(data: Path, tmp_path: Path) -> None:
    made = lineage(data, [make_plan(open_dataset(data), Rule(2, 0.25))], tmp_path)
    command = made.commands()[1]
    assert command.startswith("for fold in 0 1; do backdrop train ")
    words = shlex.split(command)
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert find_recipe(words[words.index("--recipe") + 1], sets) == made.members[0].member.recipe
    assert options(made.commands()[2])["--members"] == ["members/tiny-0", "members/tiny-1"]


def test_what_no_command_makes_is_said(data: Path, tmp_path: Path) -> None:
    made = lineage(data, [make_plan(open_dataset(data), Rule(2, 0.25))], tmp_path, settings=[*SMALL, "name=ours"])
    assert made.commands()[1] == "# ours.yaml is recipe.yaml in runs:/0/member"
    assert "--recipe ours.yaml" in made.commands()[2]
    record = made.members[0].member.record
    teacher = Teacher(address="models:/cars/3", digest="0" * 64)
    for change, words in (({"pseudo": "5" * 64}, "--pseudo"), ({"teacher": teacher}, "distilled from models:/cars/3")):
        member = replace(made.members[0].member, record=record.model_copy(update=change))
        other = replace(made, members=[replace(made.members[0], member=member)])
        assert words in other.commands()[1]


def test_the_section_names_data_plan_members_and_versions(data: Path, tmp_path: Path) -> None:
    plan = make_plan(open_dataset(data), Rule(2, 0.25))
    (tmp_path / "plan.csv").write_bytes(dump_plan(plan))
    html = lineage_section(lineage(data, [read_plan(tmp_path / "plan.csv")], tmp_path))
    for words in (plan.data, "c" * 12, "runs:/0/member", "in a checkout of abc", "backdrop evaluate"):
        assert words in html


NAMES = [name for name in shipped("recipes") if find_recipe(name).network.kind != "timm_unet"]


@given(
    st.sampled_from(NAMES),
    st.integers(1, 400),
    st.integers(0, 9),
    st.sampled_from(["64x64", "128x64"]),
    st.booleans(),
)
def test_changes_make_a_recipe_from_the_shipped_one(name: str, batch: int, seed: int, size: str, skips: bool) -> None:
    base = find_recipe(name)
    shape = Input.model_validate({**base.input.model_dump(), "size": size})
    update = {"batch_size": batch, "seed": seed, "input": shape, "on_nan": "skip" if skips else "stop"}
    recipe = base.model_copy(update={**update, "augmentation": base.augmentation[:1]})
    made = changes(recipe)
    assert made is not None
    assert find_recipe(name, made) == recipe
    assert changes(base) == []
    assert changes(recipe.model_copy(update={"name": "ours"})) is None
