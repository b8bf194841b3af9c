"""Spaces of schedules: what may be drawn from them can be trained, and what is wrong with one is said."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.common.errors import ConfigError
from backdrop.config import Budget, Recipe, find_recipe, find_space, shipped
from backdrop.config.records import parse
from backdrop.config.space import Draws, Space, draw, preset, within
from backdrop.training.lr_schedules import learning_rates

GOOD = "name: mine\nfamilies: [{kind: cosine, lr: [1e-4, 1e-2], floor: 0.01}]\n"


class Drawn:
    """Hypothesis as the chance."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return self.data.draw(st.floats(low, high), label=name)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high), label=name)

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        return self.data.draw(st.sampled_from(choices), label=name)


@given(st.data(), st.sampled_from(sorted(shipped("spaces"))), st.integers(4, 300), st.integers(2, 60))
def test_what_is_drawn_can_be_trained(data: st.DataObject, name: str, epochs: int, budget: int) -> None:
    recipe = find_recipe("tiny", [f"epochs={epochs}"])
    space = find_space(name, recipe)
    candidate = draw(space, recipe, Drawn(data))
    values = recipe.model_dump(mode="json")
    whole = parse(Recipe, {**values, **candidate.override}, "the recipe")
    assert sum(phase.epochs for phase in whole.schedule) == epochs
    trial = parse(Recipe, {**values, **within(candidate.override, budget), "epochs": budget}, "a trial")
    for one in (whole, trial):
        lrs = learning_rates(one.schedule, one.epochs)
        assert len(lrs) == one.epochs
        assert min(lrs) > 0
        assert max(lrs) <= float(f"{candidate.values['lr']:.3g}") * (1 + 1e-6)


@given(st.data(), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_what_is_drawn_stays_in_its_range(data: st.DataObject, one: float, other: float) -> None:
    ends = min(one, other), max(one, other)
    drawn = Draws(Drawn(data), "step").real("factor", ends)
    assert ends[0] <= drawn <= ends[1]


def test_a_search_judges_on_each_fold_once() -> None:
    with pytest.raises(ConfigError, match=r"^tune: folds: 0, 1, 0 has a fold twice\. Name each once\.$"):
        parse(Budget, {"folds": [0, 1, 0]}, "tune")


@pytest.mark.parametrize("name", shipped("spaces"))
def test_shipped_spaces_hold_the_winners_presets(name: str) -> None:
    space = find_space(name, find_recipe("tiny"))
    assert {"linknet34-faithful", "unet11-faithful", "unet-vgg11-faithful", "unet-scratch-faithful"} <= set(
        space.presets
    )
    for shipped_recipe in space.presets:
        values = find_recipe("tiny").model_dump(mode="json")
        assert parse(Recipe, {**values, **preset(find_recipe(shipped_recipe)).override}, "a preset")
    assert find_recipe("linknet34", [f"{key}={value}" for key, value in space.set.items()])
    kinds = {(family.kind, family.name) for family in space.families}
    assert {"plateau", "step", "cycle", "restarts", "one_cycle", "tail"} <= {kind for kind, _ in kinds}


def test_a_recipe_has_the_space_of_its_kind() -> None:
    names = {
        name: find_space(None, find_recipe(name)).name for name in ("tiny", "tiny-linknet", "linknet34", "unet-scratch")
    }
    assert names == {"tiny": "tiny", "tiny-linknet": "tiny", "linknet34": "adam", "unet-scratch": "sgd"}


def test_a_preset_keeps_rates_and_optimizer_but_not_augmentation() -> None:
    vgg = find_recipe("unet-vgg11-faithful")
    override = preset(vgg).override
    assert all("augmentation" not in phase for phase in override["schedule"])
    tiny = parse(Recipe, {**find_recipe("tiny").model_dump(mode="json"), **override, "epochs": 60}, "preset")
    assert learning_rates(tiny.schedule, 60) == learning_rates(vgg.schedule, 60)
    assert tiny.optimizer == vgg.optimizer


def test_a_short_budget_has_no_warm_up() -> None:
    override = {"schedule": [{"kind": "exponential", "epochs": 3}, {"kind": "cosine", "epochs": 57}]}
    assert [phase["kind"] for phase in within(override, 6)["schedule"]] == ["cosine"]
    assert within(override, 20) == override


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cosine", "cosin", "families.0.kind can't be cosin. Did you mean cosine?"),
        ("[1e-4, 1e-2]", "[1e-2, 1e-4]", "families.0.lr: the range .* is empty. Write the lower value first."),
        ("[1e-4, 1e-2]", "0", "families.0.lr"),
        ("[1e-4, 1e-2]", "[-1e-3, 1e-2]", "families.0.lr"),
        ("floor: 0.01", "floor: 0.01, warmpu: 0.1", "Did you mean warmup?"),
        ("floor: 0.01", "floor: 2", "families.0.floor"),
        ("name: mine", "nam: mine", "unknown key nam. Did you mean name?"),
        ("[{kind: cosine, lr: [1e-4, 1e-2], floor: 0.01}]", "[]", "families"),
    ],
)
def test_a_bad_space_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(GOOD)
    assert isinstance(find_space(str(path), find_recipe("tiny")), Space)
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        find_space(str(path), find_recipe("tiny"))


def test_a_schedule_needs_some_epochs() -> None:
    recipe = find_recipe("tiny", ["epochs=3"])
    with pytest.raises(ConfigError, match="tiny trains for 3 epochs"):
        draw(find_space("tiny", recipe), recipe, Drawn(None))  # type: ignore[arg-type]  # nothing is drawn
