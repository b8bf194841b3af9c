"""Finds a photograph's object and view from its folder and name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

from backdrop.common.errors import ConfigError
from backdrop.data.listing import names_doubt, normalized

UNNAMED = "isn't named <object>_<view>: say how to read names with --pattern"
PATTERN_REMEDY = "Write it with named groups, such as '(?P<object>.+)_(?P<view>[^_]+)'"
# Folders that part a dataset, in lower case: each has photographs of many objects.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

Name = tuple[str, str]  # object and view


def name_photos(paths: Sequence[PurePosixPath], pattern: str | None) -> dict[PurePosixPath, Name | None]:
    """Object and view of each photograph, unique and safe as file names; None if its name doesn't contain them.

    Args:
        paths: the photographs, relative to the imported folder.
        pattern: a regular expression with groups `object` and optionally `view`, searched in each path without its
            suffix. Without it, nested folders are objects, and other names are read as `<object>_<view>`.

    Raises:
        ConfigError: if the pattern isn't a regular expression, or has no such group.
    """
    raw = _by_pattern(paths, pattern) if pattern else _by_folder(paths)
    objects = _unique({name[0]: _safe(name[0]) for name in raw.values() if name})
    views: dict[str, dict[str, str]] = {}
    for name in raw.values():
        if name:
            views.setdefault(name[0], {})[name[1]] = _safe(name[1]).replace("_", "-")
    unique = {key: _unique(group) for key, group in views.items()}
    return {path: (objects[name[0]], unique[name[0]][name[1]]) if name else None for path, name in raw.items()}


def _by_pattern(paths: Sequence[PurePosixPath], pattern: str) -> dict[PurePosixPath, Name | None]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--pattern {pattern} is not a regular expression ({error})", PATTERN_REMEDY) from error
    if "object" not in expression.groupindex:
        raise ConfigError(f"--pattern {pattern} has no group named object", PATTERN_REMEDY)
    raw: dict[PurePosixPath, Name | None] = {}
    unviewed: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        match = expression.search(normalized(path.with_suffix("").as_posix()))
        parts = match.groupdict() if match else {}
        raw[path] = (parts["object"], parts.get("view") or "") if parts.get("object") else None
        if raw[path] and not parts.get("view"):
            unviewed.setdefault(parts["object"], []).append(path)
    for name, group in unviewed.items():
        raw |= {path: (name, view) for path, view in _numbers(group).items()}
    return raw


def _by_folder(paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, Name | None]:
    groups: dict[str, list[PurePosixPath]] = {}
    raw: dict[PurePosixPath, Name | None] = {}
    folders = _without_splits(paths)
    common = _common(folders.values())
    by_name = {path: _by_own_name(path) for path in paths}
    names = [name for name in by_name.values() if name]
    one_folder = all(path.parent == paths[0].parent for path in paths)
    one_object = bool(common) and one_folder and (len(names) < len(paths) or bool(names_doubt(names)))
    for path in paths:
        folder = folders[path][len(common) :]
        if folder:
            groups.setdefault(normalized("-".join(folder)), []).append(path)
        elif one_object:
            groups.setdefault(normalized(common[-1]), []).append(path)
        else:
            raw[path] = by_name[path]
    for name, views in _views(groups).items():
        raw |= {path: (name, view) for path, view in views.items()}
    return {path: raw[path] for path in paths}


def _by_own_name(path: PurePosixPath) -> Name | None:
    """Object and view of a file named `<object>_<view>`."""
    name, _, view = normalized(path.stem).rpartition("_")
    return (name, view) if name and view else None


def _without_splits(paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, tuple[str, ...]]:
    """Each photograph's folders, without levels at which folders part a dataset; a lone `test` may be an object."""
    levels = [set(level) for level in zip(*(path.parent.parts for path in paths), strict=False)]
    parted = {depth for depth, level in enumerate(levels) if len(level) > 1 and {*map(str.lower, level)} <= SPLITS}
    return {path: tuple(part for depth, part in enumerate(path.parent.parts) if depth not in parted) for path in paths}


def _common(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all photographs are in."""
    levels = zip(*folders, strict=False)
    return tuple(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _views(groups: Mapping[str, Sequence[PurePosixPath]]) -> dict[str, dict[PurePosixPath, str]]:
    """Views by file names if most of them occur in several objects (`front`, `side`), else by their order."""
    stems = {name: {path: _own_part(path, name) for path in group} for name, group in groups.items()}
    times = Counter(stem for views in stems.values() for stem in set(views.values()))
    shared = sum(times[stem] > 1 for views in stems.values() for stem in views.values())
    if 2 * shared >= sum(map(len, groups.values())):
        return stems
    return {name: _numbers(group) for name, group in groups.items()}


def _own_part(path: PurePosixPath, name: str) -> str:
    """A file's name without its object's name: `front` for `shoe1/shoe1_front.jpg`."""
    stem = normalized(path.stem)
    match = re.fullmatch(rf"{re.escape(name)}[-_ .]+(.+)", stem, re.IGNORECASE)
    return match[1] if match else stem


def _numbers(group: Sequence[PurePosixPath]) -> dict[PurePosixPath, str]:
    """01, 02, … in the order of names; numbers in names are ordered by value."""

    def order(path: PurePosixPath) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]

    digits = max(2, len(str(len(group))))
    return {path: f"{number:0{digits}d}" for number, path in enumerate(sorted(group, key=order), start=1)}


def _safe(text: str) -> str:
    """The text with only letters, digits, `_`, `-` and `.`, neither hidden nor empty."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._") or "x"


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """The names with a number appended where two would be equal on a disk that ignores case."""
    taken: set[str] = set()
    result = {}
    for raw, name in sorted(names.items()):
        number, candidate = 1, name
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        result[raw] = candidate
    return result
