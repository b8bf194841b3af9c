"""Makes a compiled package smaller: what KFP writes for each task again, although it is the same, is written once.

Argo keeps a whole run in one object of at most 1 MiB, so that the size of a package bounds the number of its members.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

OWN_GPUS = re.compile(r"pipelinechannel--gpus_\d+")  # how a train task calls the input with its number of GPUs
FUNCTION = "--function_to_execute"  # in a container's arguments, before the name of the component's function


def name_alike(package: str) -> str:
    """The package's text with one name for an input that train tasks call by their fold: executors are equal then."""
    return OWN_GPUS.sub("pipelinechannel--gpus", package)


def compact(graph: dict[str, Any], settings: dict[str, Any]) -> None:
    """Merges equal executors and then equal components, in place.

    Args:
        graph: the package's first document.
        settings: the Kubernetes settings of its executors, by their labels.
    """
    executors, components = graph["deploymentSpec"]["executors"], graph["components"]
    both = {label: {"executor": executors[label], "settings": settings.get(label)} for label in executors}
    labels = _merge(both, lambda label: f"exec-{_function(executors[label])}")
    for documents, part in ((executors, "executor"), (settings, "settings")):
        documents.clear()
        documents.update({label: entry[part] for label, entry in both.items() if entry[part] is not None})
    for component in components.values():
        if "executorLabel" in component:
            component["executorLabel"] = labels[component["executorLabel"]]
    merged = True
    while merged:  # sub-pipelines are equal once the components of their tasks have the same names
        before = len(components)
        names = _merge(components, lambda name: _component_name(name, components[name]))
        for task in _tasks(graph):
            task["componentRef"]["name"] = names[task["componentRef"]["name"]]
        merged = len(components) < before


def _merge(entries: dict[str, Any], rename: Callable[[str], str]) -> dict[str, str]:
    """Keeps the first of equal entries under its new name, and returns the new names by the old ones."""
    kept: dict[str, tuple[str, Any]] = {}  # by content
    names = {}
    for old, entry in sorted(entries.items()):
        content = json.dumps(entry, sort_keys=True)
        if content not in kept:
            taken = {name for name, _ in kept.values()}
            kept[content] = next(name for name in _numbered(rename(old)) if name not in taken), entry
        names[old] = kept[content][0]
    entries.clear()
    entries.update(kept.values())
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _function(executor: dict[str, Any]) -> str:
    arguments = executor["container"]["args"]
    return str(arguments[arguments.index(FUNCTION) + 1]).replace("_", "-")


def _component_name(name: str, component: dict[str, Any]) -> str:
    return f"comp-{component['executorLabel'].removeprefix('exec-')}" if "executorLabel" in component else name


def _tasks(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (graph["root"], *graph["components"].values()):
        yield from part.get("dag", {}).get("tasks", {}).values()
