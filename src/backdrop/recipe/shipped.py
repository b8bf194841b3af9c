"""Recipes and ensembles by name or path: what the package ships, and YAML files of one's own."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

from backdrop.config import meant, override, parse, parse_yaml, read_text
from backdrop.errors import ConfigError
from backdrop.recipe.recipe import Recipe

Kind = Literal["recipes", "ensembles"]


def find_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file's by path, with `a.b=c` overrides.

    Raises:
        ConfigError: if there is none, or it isn't valid.
    """
    text, source = find_text("recipes", name)
    return parse(Recipe, override(parse_yaml(text, source), overrides), source)


def recipe_text(name: str) -> str:
    """A recipe's YAML as it was written; raises as `find_recipe` does."""
    return find_text("recipes", name)[0]


def shipped(kind: Kind) -> dict[str, str]:
    """The YAML text of what the package ships, by name."""
    files = (resources.files("backdrop") / kind).iterdir()
    texts = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: texts[name].read_text(encoding="utf-8") for name in sorted(texts)}


def find_text(kind: Kind, name: str) -> tuple[str, str]:
    """The YAML text of a recipe or an ensemble, and what to call it in an error.

    Raises:
        ConfigError: if there is none.
    """
    texts, noun = shipped(kind), kind.removesuffix("s")
    if name in texts:
        return texts[name], f"{kind}/{name}.yaml"
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_text(Path(name), noun), name
    raise ConfigError(f"There is no {noun} {name}", meant(name, texts))
