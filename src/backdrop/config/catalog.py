"""Recipes, ensembles and spaces by name or path: what the package ships, and YAML files of one's own."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config.explain import suggest
from backdrop.config.recipe import Recipe
from backdrop.config.records import override, parse, parse_yaml, read_text

Kind = Literal["recipes", "ensembles", "spaces"]


class Source(NamedTuple):
    """A YAML file: its text, its name for an error, and the folder from which it sees others (None if shipped)."""

    text: str
    name: str
    folder: str | None


def find_recipe(
    name: str, overrides: Iterable[str] = (), over: Mapping[str, Any] | None = None, option: str = "--set"
) -> Recipe:
    """A shipped recipe by name, or a YAML file's by its path or `s3://` address.

    Args:
        name: the name or path.
        overrides: `a.b=c`, set last.
        over: keys that take the place of the recipe's own, each as a whole.
        option: what the overrides are called in an error.

    Raises:
        ConfigError: if there is none, or it isn't valid.
    """
    source = find_text("recipes", name)
    values = seen_from(source.folder, parse_yaml(source.text, source.name))
    assignments = list(overrides)
    whole = override({**values, **(over or {})}, assignments, option)
    return parse(Recipe, whole, source.name, [f"{option} {assignment}" for assignment in assignments])


def change_recipe(recipe: Recipe, overrides: Iterable[str], option: str = "--set") -> Recipe:
    """A recipe with `a.b=c` set.

    Args:
        recipe: what is changed.
        overrides: the assignments.
        option: what the overrides are called in an error.

    Raises:
        ConfigError: if the recipe has no such key, or a value doesn't fit.
    """
    assignments = list(overrides)
    values = override(recipe.model_dump(mode="json"), assignments, option)
    return parse(Recipe, values, recipe.name, [f"{option} {assignment}" for assignment in assignments])


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
    return seen_from(storage.parent(path), values)


def seen_from(folder: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's, an ensemble's or a space's values with the addresses in them seen from their own file's folder.

    Shipped names, URLs, `s3://` addresses and absolute paths stay as they are; so does everything without a folder.
    """
    if folder is None:
        return values
    result = dict(values)
    if isinstance(weights := values.get("pretrained"), dict) and isinstance(weights.get("address"), str):
        result["pretrained"] = {**weights, "address": storage.join(folder, weights["address"])}
    if isinstance(inner := values.get("recipe"), dict):
        result["recipe"] = seen_from(folder, inner)
    elif isinstance(inner, str):
        result["recipe"] = _seen(folder, inner)
    if isinstance(members := values.get("members"), list):
        result["members"] = [seen_from(folder, one) if isinstance(one, dict) else one for one in members]
    if isinstance(presets := values.get("presets"), list):
        result["presets"] = [_seen(folder, one) if isinstance(one, str) else one for one in presets]
    return result


def _seen(folder: str, name: str) -> str:
    return storage.join(folder, name) if _is_path(name) else name


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


def shipped(kind: Kind) -> dict[str, str]:
    """The YAML text of what the package ships, by name."""
    files = (resources.files("backdrop.config") / kind).iterdir()
    texts = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: texts[name].read_text(encoding="utf-8") for name in sorted(texts)}


def find_text(kind: Kind, name: str) -> Source:
    """The YAML of a recipe, an ensemble or a space.

    Raises:
        ConfigError: if there is none.
    """
    texts, noun = shipped(kind), kind.removesuffix("s")
    if name in texts:
        return Source(texts[name], f"{kind}/{name}.yaml", None)
    if storage.is_remote(name):
        return Source(storage.read_bytes(name).decode(errors="replace"), name, storage.parent(name))
    if _is_path(name):
        return Source(read_text(Path(name), noun), name, storage.parent(name))
    raise ConfigError(f"There is no {noun} {name}", suggest(name, texts))
