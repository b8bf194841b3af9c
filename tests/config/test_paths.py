"""Paths in a YAML file are seen from that file's folder, here and in S3."""

from pathlib import Path

import pytest

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config import find_ensemble, find_recipe, find_space, find_text
from backdrop.config.catalog import read_over
from backdrop.config.recipe import digest

TINY = find_text("recipes", "tiny").text
WEIGHTS = "pretrained: {address: weights/mine.pth, sha256: 0123abcd}\n"
ENSEMBLE = """
name: mine
members:
  - {recipe: ../recipes/mine.yaml}
  - group: others
    members:
      - {recipe: tiny, set: {name: another}}
      - {recipe: ./here.yaml}
"""
SPACE = """
name: mine
presets: [unet11, ../recipes/mine.yaml]
families: [{kind: cosine, lr: 1e-3, floor: 0.1}]
"""


def write(folder: str) -> None:
    """A project: an ensemble, a space, two recipes and what a search chose."""
    files = {
        "recipes/mine.yaml": TINY.replace("name: tiny", "name: mine") + WEIGHTS,
        "ensembles/mine.yaml": ENSEMBLE,
        "ensembles/here.yaml": TINY.replace("name: tiny", "name: here"),
        "ensembles/space.yaml": SPACE,
        "over.yaml": WEIGHTS,
    }
    for name, text in files.items():
        storage.write_bytes(f"{folder}/{name}", text.encode())


@pytest.fixture(params=["folder", "s3"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = f"{request.getfixturevalue('bucket')}/project" if request.param == "s3" else str(tmp_path / "project")
    write(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another working folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.mark.usefixtures("elsewhere")
def test_an_ensembles_recipes_are_seen_from_it(project: str) -> None:
    ensemble = find_ensemble(f"{project}/ensembles/mine.yaml")
    recipes = [part.resolve() for part in ensemble.parts()]
    assert [recipe.name for recipe in recipes] == ["mine", "another", "here"]
    assert recipes[0].pretrained is not None
    assert recipes[0].pretrained.address == f"{project}/recipes/weights/mine.pth"


@pytest.mark.usefixtures("elsewhere")
def test_so_are_presets_and_weights(project: str) -> None:
    tiny = find_recipe("tiny")
    assert find_space(f"{project}/ensembles/space.yaml", tiny).presets == ("unet11", f"{project}/recipes/mine.yaml")
    recipe = find_recipe("tiny", over=read_over(f"{project}/over.yaml"))
    assert recipe.pretrained is not None
    assert recipe.pretrained.address == f"{project}/weights/mine.pth"


def test_the_working_folder_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path))
    monkeypatch.chdir(tmp_path / "ensembles")
    near = find_ensemble("./mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert find_ensemble("ensembles/mine.yaml") == near == find_ensemble(str(tmp_path / "ensembles" / "mine.yaml"))


def test_what_is_absolute_or_an_override_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for address in ("https://example.com/a.pth", "s3://weights/a.pth", "/weights/a.pth"):
        path.write_text(TINY + WEIGHTS.replace("weights/mine.pth", f"'{address}'"))
        recipe = find_recipe(str(path))
        assert recipe.pretrained is not None
        assert recipe.pretrained.address == address
    given = find_recipe(str(path), ["pretrained.address=here.pth"])
    assert given.pretrained is not None
    assert given.pretrained.address == "here.pth", "a command's paths are seen from where it is called"
    assert digest(given) == digest(recipe), "weights are known by their sha256, wherever they are"


@pytest.mark.usefixtures("elsewhere")
def test_a_recipe_that_is_not_there_is_named_by_the_path_that_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmembers: [{recipe: ./nothing.yaml}]")
    with pytest.raises(ConfigError, match=rf"recipe {tmp_path}/nothing\.yaml can't be read"):
        find_ensemble(str(path))


def test_what_an_ensemble_sets_wrongly_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmembers: [{recipe: tiny, set: {epochs: many}}]")
    with pytest.raises(ConfigError, match=r"^set epochs=many: epochs can't be many\. Write a whole number\.$"):
        find_ensemble(str(path))
