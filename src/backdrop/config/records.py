"""YAML in, frozen records out: strict keys, overrides, and errors that say which key was meant."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from backdrop.common.errors import ConfigError, shorten


class Record(BaseModel):
    """Base of every record: immutable, and no key that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parses one YAML mapping.

    Args:
        text: the YAML.
        source: the file's name, for the error.

    Raises:
        ConfigError: if it isn't YAML, or not a mapping.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML ({shorten(error)})", "Mend the file") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{source} holds no mapping of keys to values", "Begin with a line such as `name: mine`")
    return value


def dump_yaml(record: Record, without: Iterable[str] = ()) -> str:
    """The record as YAML, keys in the order of its fields, so that the same record has the same bytes."""
    return yaml.safe_dump(record.model_dump(mode="json", exclude=set(without)), sort_keys=False, allow_unicode=True)


def read_text(path: Path, what: str) -> str:
    """The text of a configuration file; `what` names its kind in the error."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} can't be read ({shorten(error)})", "Check the path") from error


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with `a.b=c` assignments made; the right side is YAML (`1e-3`, `true`, `[1, 2]`).

    A list's items are named by their place: `schedule.0.rate=1e-3`.

    Raises:
        ConfigError: if an assignment has no `=`, or goes into something that has no such place.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(values)))
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment} has no key or no value", "Write it as --set epochs=2")
        _assign(result, key.strip(), _scalar(text))
    return result


def parse(record: type[R], values: Mapping[str, Any], source: str) -> R:
    """Checks `values` against `record`.

    Raises:
        ConfigError: naming the first wrong key, where it stands in `source`, and which key was meant.
    """
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise _explain(record, error, source) from error


def suggest(word: str, choices: Iterable[str]) -> str:
    """A remedy: the nearest of `choices` if one is near, else all of them."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(known)}"


def _assign(values: Any, dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents):
        if isinstance(values, dict):
            values.setdefault(parent, {})
        values = _inside(values, parent, dotted, parents[:depth])
    if isinstance(values, list):
        _inside(values, last, dotted, parents)
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        path = ".".join(parents)
        raise ConfigError(f"--set {dotted}: {path} is not a mapping", f"Set {path} as a whole")


def _inside(values: Any, key: str, dotted: str, path: list[str]) -> Any:
    """What stands under a mapping's key or at a list's place."""
    if isinstance(values, list) and key.isdecimal() and int(key) < len(values):
        return values[int(key)]
    if isinstance(values, dict):
        return values[key]
    where = ".".join(path)
    if isinstance(values, list):
        raise ConfigError(f"--set {dotted}: {where} has no item {key}", f"Use 0 to {len(values) - 1}, or set {where}")
    raise ConfigError(f"--set {dotted}: {where} is not a mapping", f"Set {where} as a whole")


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set value {text!r} is not valid YAML", "Quote it") from error


def _explain(record: type[Record], error: ValidationError, source: str) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join(path) or "the whole"
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{source}: unknown key {where}", suggest(path[-1], _keys_at(record, path[:-1])))
    if first["type"] == "missing":
        return ConfigError(f"{source}: key {where} is missing", f"Add {path[-1]}")
    return ConfigError(f"{source}: {where}: {shorten(first['msg'])}", f"Mend {where}")


def _keys_at(record: type[Record], path: list[str]) -> set[str]:
    """Names of the fields of the records that can stand at `path` below `record`."""
    records = {record}
    for part in path:
        fields = [r.model_fields[part].annotation for r in records if part in r.model_fields]
        # A list index or the tag of a union leads to no field: stay where we are.
        records = (
            {found for field in fields for found in _records_in(field)}
            or {r for r in records if _tag(r) in (part, None)}
            or records
        )
    return {name for r in records for name in r.model_fields}


def _records_in(annotation: Any) -> set[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return {annotation}
    return {found for inner in get_args(annotation) for found in _records_in(inner)}


def _tag(record: type[Record]) -> str | None:
    for name in ("name", "kind"):
        values = get_args(record.model_fields[name].annotation) if name in record.model_fields else ()
        if values:
            return str(values[0])
    return None
