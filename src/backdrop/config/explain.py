"""Turns a validation error of YAML values into one sentence and a remedy."""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from backdrop.common.errors import ConfigError, shorten
from backdrop.config.patterns import EXAMPLES
from backdrop.config.renamed import new_name

Fault = Mapping[str, Any]  # an error of pydantic
Path = Sequence[str | int]

# Remedies by pydantic's type of error; {…} are the error's limits.
REMEDIES = {
    "int": "Write a whole number",
    "float": "Write a number",
    "bool": "Write true or false",
    "string_type": "Put it in quotes",
    "tuple_type": "Write a list, such as [1, 2]",
    "list_type": "Write a list, such as [1, 2]",
    "dict_type": "Write a mapping, such as {{key: value}}",
    "model": "Write a mapping, such as {{key: value}}",
    "greater_than_equal": "Write at least {ge}",
    "greater_than": "Write more than {gt}",
    "less_than_equal": "Write at most {le}",
    "less_than": "Write less than {lt}",
    "finite_number": "Write a finite number",
    "too_short": "List at least {min_length}",
}

# What may follow from another error: a list lacks its wrong items, and a union may take more than text.
LATE = ("too_short", "string_type")


def explain(
    record: type[BaseModel],
    error: ValidationError,
    values: Mapping[str, Any],
    source: str,
    overrides: Iterable[str] = (),
) -> ConfigError:
    """The first error to fix; an unknown key comes first, because it often explains a missing one.

    Args:
        record: the record that `values` should be.
        error: pydantic's error.
        values: the YAML's mapping.
        source: the name of the file or other source.
        overrides: assignments in the values, such as `--set a.b=c`; a wrong one is named instead of the source.
    """
    fault: Fault = min(
        error.errors(), key=lambda e: (e["type"] != "extra_forbidden", *(e["type"] == kind for kind in LATE))
    )
    path = _path_of(fault, values)
    if fault["type"] == "string_type":
        fault = _as_text(record, fault, path, values)
    what, remedy = _renamed(fault, path, values) or _sentence(record, fault, path)
    for assignment in overrides:
        key, place = f"{assignment.partition('=')[0].split()[-1]}.", f"{_dotted(path)}."
        if place.startswith(key) or key.startswith(place):
            source = assignment
    return ConfigError(f"{source}: {what}", remedy)


def _as_text(record: type[BaseModel], fault: Fault, path: Path, values: Mapping[str, Any]) -> Fault:
    """The fault that a value has as text, too; the given one if quotes are all that it lacks."""
    written = copy.deepcopy(dict(values))
    _value_at(written, path[:-1])[path[-1]] = str(fault["input"])
    try:
        record.model_validate(written)
    except ValidationError as error:
        return next((other for other in error.errors() if other["loc"] == fault["loc"]), fault)
    return fault


def _path_of(fault: Fault, values: Any) -> list[str | int]:
    """The path of a fault in the YAML's keys: pydantic's path without the tags of unions."""
    path: list[str | int] = []
    for part in fault["loc"]:
        if (isinstance(values, Mapping) and part in values) or (isinstance(values, Sequence) and isinstance(part, int)):
            values = values[part]
            path.append(part)
    return [*path, fault["loc"][-1]] if fault["type"] == "missing" else path


def _dotted(path: Path) -> str:
    """A path as in `--set`."""
    return ".".join(map(str, path))


def suggest(word: str, choices: Iterable[str]) -> str:
    """A remedy: the closest of `choices` if one is close, else all of them."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Use one of {', '.join(known)}"


def as_choice(option: str, word: str, choices: Any) -> Any:
    """The word, if it is one of the choices.

    Args:
        option: its name, for the error.
        word: what the user wrote.
        choices: a `Literal` of texts.

    Raises:
        ConfigError: if it isn't.
    """
    if word not in get_args(choices):
        raise ConfigError(f"{option} can't be {shorten(word)}", suggest(word, get_args(choices)))
    return word


def _renamed(fault: Fault, path: Path, values: Any) -> tuple[str, str] | None:
    """A renamed key, at the fault or in the mapping there."""
    if fault["type"] == "missing":
        return None
    *parents, last = path or [""]
    places = [(parents, str(last))] if fault["type"] == "extra_forbidden" else []
    value = _value_at(values, path)
    places += [(list(path), key) for key in value] if isinstance(value, Mapping) else []
    for place, key in places:
        if name := new_name(key, _value_at(values, place), place):
            return f"unknown key {_dotted([*place, key])}", f"Write {name}"
    return None


def _sentence(record: type[BaseModel], fault: Fault, path: Path) -> tuple[str, str]:
    place, context, fault_type = _dotted(path), fault.get("ctx", {}), fault["type"]
    if fault_type == "extra_forbidden":
        return f"unknown key {shorten(place)}", suggest(str(path[-1]), _keys_at(record, fault["loc"][:-1]))
    if fault_type == "missing":
        return f"key {place} is missing", f"Add {path[-1]}"
    if fault_type == "union_tag_not_found":
        return f"key {place}.kind is missing", f"Add kind to {place}"
    if fault_type in ("union_tag_invalid", "literal_error"):
        word, inner = (str(context["tag"]), ".kind") if "tag" in context else (str(fault["input"]), "")
        known = re.findall(r"'([^']*)'", context.get("expected_tags") or context["expected"])
        return f"{place}{inner} can't be {shorten(word)}", suggest(word, known)
    if fault_type == "value_error":
        what, _, remedy = str(context["error"]).partition("; ")
        return f"{place}: {what}" if place else what, f"{remedy[:1].upper()}{remedy[1:]}" or f"Change {place}"
    if fault_type == "string_pattern_mismatch":
        return f"{place} can't be {shorten(fault['input'])}", EXAMPLES[context["pattern"]]
    name = next((name for name in REMEDIES if fault_type == name or fault_type.startswith(f"{name}_")), None)
    if name is None:
        return f"{place}: {shorten(fault['msg'])}", f"Change {place}"
    return f"{place} can't be {shorten(fault['input'])}", REMEDIES[name].format(**context)


def _value_at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values


def _keys_at(record: type[BaseModel], path: Path) -> set[str]:
    """Field names of the records that pydantic's `path` below `record` may lead to."""
    records = {record}
    for part in map(str, path):
        fields = [r.model_fields[part].annotation for r in records if part in r.model_fields]
        # A list index or a union's tag is not a field: keep the same records.
        records = (
            {inner for field in fields for inner in _records_in(field)}
            or {r for r in records if _tag(r) in (part, None)}
            or records
        )
    return {name for r in records for name in r.model_fields}


def _records_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {inner for argument in get_args(annotation) for inner in _records_in(argument)}


def _tag(record: type[BaseModel]) -> str | None:
    values = get_args(record.model_fields["kind"].annotation) if "kind" in record.model_fields else ()
    return str(values[0]) if values else None
