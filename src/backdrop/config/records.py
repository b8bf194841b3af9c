"""Parses YAML into frozen records, with strict keys, overrides, and errors that suggest the right key."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from backdrop.common import storage, text
from backdrop.common.errors import ConfigError, StorageError, shorten
from backdrop.config.explain import explain

# What PyYAML raises for a text that isn't YAML: ValueError for a date such as 2026-13-01.
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
MAX_VALUES = 100_000  # in a file, with the repetitions of its anchors


class Record(BaseModel):
    """Base of every record: immutable, rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def parse_yaml(content: str, source: str) -> dict[str, Any]:
    """Parses one YAML mapping.

    Args:
        content: the YAML.
        source: the file's name, for the error.

    Raises:
        ConfigError: if it isn't YAML, has a key twice, or isn't a mapping.
    """
    try:
        value = yaml.load(content, _UniqueKeys)  # noqa: S506  # a SafeLoader
    except _DuplicateKeyError as error:
        raise ConfigError(f"{source}, line {error.line}: duplicate key {error.key}", "Remove one of the two") from error
    except YAML_ERRORS as error:
        raise ConfigError(f"{source} is not valid YAML ({_yaml_fault(error)})", "Fix the file") from error
    if _size(value, {}) > MAX_VALUES:
        raise ConfigError(f"{source} repeats its anchors endlessly or too often", "Write the values out")
    if not isinstance(value, dict):
        raise ConfigError(f"{source} is not a mapping of keys to values", "Start with a line such as `name: mine`")
    return value


def _yaml_fault(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return shorten(error)


def dump_yaml(record: Record, without: Iterable[str] = (), unicode: bool = True) -> str:
    """The record as YAML, with keys in the order of its fields; equal records give equal bytes.

    Args:
        record: what to write.
        without: fields to leave out.
        unicode: write other than ASCII characters as they are, not as escapes.
    """
    return yaml.safe_dump(record.model_dump(mode="json", exclude=set(without)), sort_keys=False, allow_unicode=unicode)


def read_text(address: Path | str, what: str) -> str:
    """The text of a configuration file, a path or an `s3://` address; `what` is its type in the error.

    Raises:
        ConfigError: if it can't be read, or isn't text.
    """
    try:
        return text.decode(storage.read_bytes(address))
    except StorageError as error:
        raise ConfigError(f"{what} {error.what}", error.remedy) from error
    except ValueError as error:
        raise ConfigError(f"{what} {address} can't be read ({error})", "Save it as UTF-8") from error


def override(values: Mapping[str, Any], assignments: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """A copy of `values` with assignments `a.b=c` applied; the right side is YAML (`1e-3`, `true`, `[1, 2]`).

    Items of a list are addressed by index: `schedule.0.lr=1e-3`.

    Raises:
        ConfigError: if an assignment has no `=`, or its key doesn't fit the values.
    """
    result: dict[str, Any] = _copy(values)
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{option} {assignment} has no key or no value", f"Write it as {option} epochs=2")
        _assign(result, key.strip(), _scalar(value, option), option)
    return result


def as_assignments(values: Mapping[str, Any]) -> list[str]:
    """Keys `a.b` with any values of a YAML as the assignments that `override` takes."""
    flow = {key: yaml.safe_dump([value], default_flow_style=True, width=math.inf) for key, value in values.items()}
    return [f"{key}={text.strip()[1:-1]}" for key, text in flow.items()]


def parse(record: type[R], values: Mapping[str, Any], source: str, overrides: Iterable[str] = ()) -> R:
    """Checks `values` against `record`.

    Args:
        record: the record that the values should be.
        values: a YAML's mapping, overrides applied.
        source: the file's name, for the error.
        overrides: the applied assignments, such as `--set epochs=2`; a wrong one is named instead of the file.

    Raises:
        ConfigError: if the values are invalid; names the key, `source` and the remedy.
    """
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise explain(record, error, values, source, overrides) from error


class _DuplicateKeyError(yaml.YAMLError):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key, self.line = key, line


class _UniqueKeys(yaml.SafeLoader):
    """A loader that rejects duplicate keys; PyYAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises an error if a key occurs twice."""
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise _DuplicateKeyError(key.value, key.start_mark.line + 1)
            names.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _size(value: Any, known: dict[int, float]) -> float:
    """The number of values in a value, with those of each anchor as often as it is used; infinite in a circle."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # while its own values are counted
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in inner)
    return known[id(value)]


def _copy(value: Any) -> Any:
    """A deep copy without the sharing of YAML anchors, so that an override changes only one place."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list | tuple) else value


def _assign(values: Any, dotted: str, value: Any, option: str) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents):
        if isinstance(values, dict):
            values.setdefault(parent, {})
        values = _inside(values, parent, parents[:depth], f"{option} {dotted}")
    if isinstance(values, list):
        _inside(values, last, parents, f"{option} {dotted}")
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        path = ".".join(parents)
        raise ConfigError(f"{option} {dotted}: {path} is not a mapping", f"Set {path} as a whole")


def _inside(values: Any, key: str, path: list[str], source: str) -> Any:
    """The value at a mapping's key or a list's index; an error begins with `source`."""
    if isinstance(values, list) and key.isdecimal() and int(key) < len(values):
        return values[int(key)]
    if isinstance(values, dict):
        return values[key]
    parent = ".".join(path)
    if isinstance(values, list):
        raise ConfigError(f"{source}: {parent} has no item {key}", f"Use 0 to {len(values) - 1}, or set {parent}")
    raise ConfigError(f"{source}: {parent} is not a mapping", f"Set {parent} as a whole")


def _scalar(content: str, option: str) -> Any:
    try:
        return yaml.safe_load(content)
    except YAML_ERRORS as error:
        raise ConfigError(f"{option} value {shorten(repr(content))} is not valid YAML", "Quote it") from error
