from pathlib import Path
from typing import Any

import pytest

from backdrop import config
from backdrop.errors import ConfigError
from backdrop.recipe import Ensemble, Recipe, find_ensemble, find_recipe, parse_size, recipe_text, shipped


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("epochs=2", 2), ("a.b=1e-3", "1e-3"), ("a.c=[1, 2]", [1, 2]), ("a.d=true", True), ("a.e=x=y", "x=y")],
)
def test_overrides_are_yaml(assignment: str, value: Any) -> None:
    result: Any = config.override({"a": {"b": 1}}, [assignment])
    for key in assignment.split("=")[0].split("."):
        result = result[key]
    assert result == value


def test_overrides_leave_the_original_alone() -> None:
    values = {"a": {"b": 1}}
    config.override(values, ["a.b=2"])
    assert values == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epoch=2"], r"unknown key epoch\. Did you mean epochs\?"),
        (["network.widht=3"], r"network\.unet\.widht\. Did you mean width\?"),
        (["optimiser.clipnorm=1"], r"optimiser\.clipnorm\. Did you mean clip_norm\?"),
        (["schedule=[{kind: cosine, epochs: 3, rates: 1, final: 1}]"], r"schedule\.0\.cosine\.rate"),
        (["epochs=0"], r"epochs: Input should be greater than or equal to 1"),
        (["input.size=12"], r"input\.size"),
        (["input.size=100x96"], r"input\.size 100x96: this network needs multiples of 16"),
        (["epochs"], "has no key or no value"),
        (["epochs.x=1"], "epochs is not a mapping"),
        (["epochs=[1"], "not valid YAML"),
    ],
)
def test_a_wrong_key_says_which_was_meant(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe("tiny", overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML"), ("- a", "holds no mapping"), ("name: x", "key network is missing")],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        find_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_says_which_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"There is no recipe tiyn\. Did you mean tiny\?"):
        find_recipe("tiyn")
    with pytest.raises(ConfigError, match=r"There is no ensemble xyz\. Use one of "):
        find_ensemble("xyz")
    with pytest.raises(ConfigError, match=r"recipe nowhere/a\.yaml can't be read"):
        find_recipe("nowhere/a.yaml")


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe_text(name).startswith("# ")
    again = config.parse(Recipe, config.parse_yaml(config.dump_yaml(recipe), "x"), "x")
    assert again == recipe


@pytest.mark.parametrize("name", shipped("ensembles"))
def test_every_shipped_ensemble_loads_and_needs_no_other_file_once_resolved(name: str, tmp_path: Path) -> None:
    ensemble = find_ensemble(name)
    assert ensemble.name == name
    path = tmp_path / "resolved.yaml"
    path.write_text(config.dump_yaml(ensemble))
    assert find_ensemble(str(path)) == ensemble


def test_an_ensemble_sets_what_its_recipes_leave_open() -> None:
    parts = [{"recipe": "tiny", "weight": 2, "set": {"epochs": 3, "input.size": "64x32"}}]
    ensemble = config.parse(Ensemble, {"name": "x", "members": parts}, "x").resolve()
    recipe = ensemble.members[0].resolve()
    assert (recipe.epochs, recipe.input.width, recipe.input.height) == (3, 64, 32)
    assert ensemble.weights() == {"tiny": 1.0}


def test_ensembles_that_cannot_be_are_refused() -> None:
    twice = {"name": "x", "members": [{"recipe": "tiny"}, {"recipe": "tiny"}]}
    with pytest.raises(ConfigError, match="has recipe tiny twice"):
        config.parse(Ensemble, twice, "x").resolve()
    with pytest.raises(ConfigError, match=r"folds\.count: Input should be greater than or equal to 2"):
        config.parse(Ensemble, {"name": "x", "folds": {"count": 1}, "members": [{"recipe": "tiny"}]}, "x")


@pytest.mark.parametrize("size", ["12", "x", "0x3", "3x-1", "axb"])
def test_sizes_are_width_x_height(size: str) -> None:
    assert parse_size("384x256") == (384, 256)
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(size)
