"""Finds recipes, ensembles and spaces by name (shipped with the package) or by path (your own YAML files)."""

import json
from collections.abc import Iterable, Iterator, Mapping
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
    """A YAML file: its text, its name for errors, and the folder that its paths are relative to (None if shipped)."""

    text: str
    name: str
    folder: str | None

    def values(self) -> dict[str, Any]:
        """The mapping in it, with absolute paths.

        Raises:
            ConfigError: if it isn't YAML, or isn't a mapping.
        """
        return resolve_paths(self.folder, parse_yaml(self.text, self.name))


def find_recipe(
    recipe: str | Recipe,
    overrides: Iterable[str] = (),
    over: Mapping[str, Any] | None = None,
    option: str = "--set",
) -> Recipe:
    """A shipped recipe by name, that of a YAML file by path or `s3://` address, or the given one, with changes.

    Args:
        recipe: the name or path, or the recipe itself.
        overrides: assignments `a.b=c`, applied last.
        over: top-level keys that replace the recipe's.
        option: the name of the overrides in errors.

    Raises:
        ConfigError: if there is no such recipe, or it isn't valid.
    """
    if isinstance(recipe, Recipe):
        values, source = recipe.model_dump(mode="json"), recipe.name
    else:
        file = find_text("recipes", recipe)
        values, source = file.values(), file.name
    assignments = list(overrides)
    merged = override({**values, **(over or {})}, assignments, option)
    return parse(Recipe, merged, source, [f"{option} {assignment}" for assignment in assignments])


def changes(recipe: Recipe) -> list[str] | None:
    """The assignments `a.b=c` that make a recipe from the shipped one of its name; None if there is none.

    Args:
        recipe: what `find_recipe(recipe.name, changes)` returns.
    """
    if recipe.name not in shipped("recipes"):
        return None
    base = find_recipe(recipe.name)
    made = list(_assignments(base.model_dump(mode="json"), recipe.model_dump(mode="json"), ""))
    return made if find_recipe(base, made) == recipe else None


def _assignments(old: Any, new: Any, key: str) -> Iterator[str]:
    """What turns one value into another, as few leaves as possible."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        pairs = old.items()
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(old)
    elif old != new:
        is_plain = isinstance(new, str) and override({"value": ""}, [f"value={new}"]) == {"value": new}
        yield f"{key}={new if is_plain else json.dumps(new)}"
    for name, value in pairs:
        yield from _assignments(value, new[name], f"{key}.{name}" if key else str(name))


def read_over(path: str | None) -> dict[str, Any]:
    """Keys that replace a recipe's, from a YAML file such as a search's `schedule.yaml`; none if `path` is None.

    Raises:
        ConfigError: if it can't be read, isn't a mapping, or has an unknown key.
    """
    if path is None:
        return {}
    values = parse_yaml(read_text(path, "Overrides"), path)
    for key in values:
        if key not in Recipe.model_fields:
            raise ConfigError(f"{path}: unknown key {key}", suggest(key, Recipe.model_fields))
    return resolve_paths(storage.parent(path), values)


def resolve_paths(folder: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe, an ensemble or a space, with relative paths resolved from their file's folder.

    Shipped names, URLs, `s3://` addresses and absolute paths don't change; without a folder, nothing does.
    """
    if folder is None:
        return values
    result = dict(values)
    if isinstance(weights := values.get("pretrained"), dict) and isinstance(weights.get("address"), str):
        result["pretrained"] = {**weights, "address": storage.join(folder, weights["address"])}
    if isinstance(inner := values.get("recipe"), dict):
        result["recipe"] = resolve_paths(folder, inner)
    elif isinstance(inner, str):
        result["recipe"] = _resolve_path(folder, inner)
    if isinstance(members := values.get("members"), list):
        result["members"] = [resolve_paths(folder, part) if isinstance(part, dict) else part for part in members]
    if isinstance(presets := values.get("presets"), list):
        result["presets"] = [_resolve_path(folder, preset) if isinstance(preset, str) else preset for preset in presets]
    return result


def _resolve_path(folder: str, name: str) -> str:
    return storage.join(folder, name) if _is_path(name) else name


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


def require_path(name: str) -> None:
    """Raises a ConfigError if a new YAML file couldn't be found by its name, which shipped ones have."""
    if not _is_path(name):
        raise ConfigError(f"{name} isn't the name of a YAML file", f"Write it as {name}.yaml")


def shipped(kind: Kind) -> dict[str, str]:
    """The YAML texts that the package ships, by name."""
    files = (resources.files("backdrop.config") / kind).iterdir()
    texts = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: texts[name].read_text(encoding="utf-8") for name in sorted(texts)}


def find_text(kind: Kind, name: str) -> Source:
    """The YAML of a recipe, an ensemble or a space.

    Raises:
        ConfigError: if it doesn't exist.
    """
    texts, noun = shipped(kind), kind.removesuffix("s")
    if name in texts:
        return Source(texts[name], f"{kind}/{name}.yaml", None)
    if "://" in name and not storage.is_remote(name):
        raise ConfigError(f"{noun} {name} can't be read", "Name a file or an s3:// address")
    if _is_path(name):
        address = name if storage.is_remote(name) else Path(name)
        return Source(read_text(address, noun), name, storage.parent(name))
    raise ConfigError(f"There is no {noun} {name}", suggest(name, texts))
