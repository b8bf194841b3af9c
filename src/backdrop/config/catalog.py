"""Recipes, ensembles and spaces by name or path: what the package ships, and YAML files of one's own."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config.recipe import Recipe
from backdrop.config.records import override, parse, parse_yaml, read_text, suggest

Kind = Literal["recipes", "ensembles", "spaces"]


def find_recipe(name: str, overrides: Iterable[str] = (), over: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or a YAML file's by its path or `s3://` address.

    Args:
        name: the name or path.
        overrides: `a.b=c`, set last.
        over: keys that take the place of the recipe's own, each as a whole.

    Raises:
        ConfigError: if there is none, or it isn't valid.
    """
    text, source = find_text("recipes", name)
    return parse(Recipe, override({**parse_yaml(text, source), **(over or {})}, overrides), source)


def read_over(path: str | None) -> dict[str, Any]:
    """Keys that take the place of a recipe's own, from a YAML file such as a search's `schedule.yaml`; none for None.

    Raises:
        ConfigError: if it can't be read, isn't a mapping or has a key that no recipe has.
    """
    if path is None:
        return {}
    values = parse_yaml(storage.read_bytes(path).decode(errors="replace"), path)
    for key in values:
        if key not in Recipe.model_fields:
            raise ConfigError(f"{path}: unknown key {key}", suggest(key, Recipe.model_fields))
    return values


def shipped(kind: Kind) -> dict[str, str]:
    """The YAML text of what the package ships, by name."""
    files = (resources.files("backdrop.config") / kind).iterdir()
    texts = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: texts[name].read_text(encoding="utf-8") for name in sorted(texts)}


def find_text(kind: Kind, name: str) -> tuple[str, str]:
    """The YAML text of a recipe, an ensemble or a space, and what to call it in an error.

    Raises:
        ConfigError: if there is none.
    """
    texts, noun = shipped(kind), kind.removesuffix("s")
    if name in texts:
        return texts[name], f"{kind}/{name}.yaml"
    if storage.is_remote(name):
        return storage.read_bytes(name).decode(errors="replace"), name
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_text(Path(name), noun), name
    raise ConfigError(f"There is no {noun} {name}", suggest(name, texts))
