"""A linter of compiled packages: it finds what KFP compiles without a warning but runs wrongly or not at all.

Each check looks at one task of the compiled YAML, and says what is wrong and how to fix it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from backdrop.common.errors import ConfigError, shorten
from backdrop.config.cluster import SHARED_MEMORY
from backdrop.config.records import YAML_ERRORS, read_text
from backdrop.pipelines.size import estimate_size

SHOWN = 5
DAY_S = 24 * 3600.0
PACKAGE = "Compile it with `backdrop pipeline compile`"
GRAPH = {"pipelineInfo", "root", "components", "deploymentSpec"}

PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
PARAMETER = re.compile(r'"componentInputParameter": "([^"]+)"')
LOOKUP = re.compile(r"\['[^']*'\]")  # in a condition, the name of the compared value
LITERAL = re.compile(r"(?<=[=<>] )'[^'\"]*'(?= |\)|$)")  # and the text that it is compared with
SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|ACCESS_KEY_ID)$", re.IGNORECASE)
SECRET_VALUE = re.compile(r"://[^/\s:@\"]+:[^/\s:@\"]+@|\bAKIA[0-9A-Z]{16}\b|PRIVATE KEY-----")


@dataclass(frozen=True)
class Task:
    """A task of a compiled graph.

    Attributes:
        name: its name.
        spec: its entry in the graph.
        container: its container's settings; empty for a loop, a branch or a sub-pipeline.
        settings: its Kubernetes settings.
        parameters: the parameters of the graph around it, and their types.
        in_loop: whether it is inside a loop, at any depth.
        in_body: whether it is directly in a loop's body.
    """

    name: str
    spec: Mapping[str, Any]
    container: Mapping[str, Any]
    settings: Mapping[str, Any]
    parameters: Mapping[str, str]
    in_loop: bool
    in_body: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """Its input parameters, and the source of each."""
        return dict(self.spec.get("inputs", {}).get("parameters", {}))

    @property
    def is_loop(self) -> bool:
        """Whether it is a loop."""
        return "parameterIterator" in self.spec or "artifactIterator" in self.spec

    @property
    def condition(self) -> str:
        """The condition of a branch; empty for other tasks."""
        return str(self.spec.get("triggerPolicy", {}).get("condition", ""))

    @property
    def image(self) -> str:
        """Its image; empty if there is none, or if it is chosen when a run starts."""
        image = str(self.container.get("image", ""))
        return "" if PLACEHOLDER.search(image) else image


def read_package(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a compiled package.

    Raises:
        ConfigError: if it can't be read, or isn't a package.
    """
    try:
        documents = list(yaml.safe_load_all(read_text(path, "package")))
    except YAML_ERRORS as error:
        raise ConfigError(f"{path} isn't YAML ({shorten(error)})", PACKAGE) from error
    keys = [set(document) if isinstance(document, dict) else set() for document in documents]
    if not keys or not keys[0] >= GRAPH or not all("platforms" in others for others in keys[1:]):
        raise ConfigError(f"{path} isn't a compiled pipeline", PACKAGE)
    return documents


def lint_file(path: Path) -> list[str]:
    """A compiled package's faults, a sentence each.

    Raises:
        ConfigError: if the file can't be read, or isn't a package.
    """
    documents = read_package(path)
    try:
        return lint(documents)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{path} isn't a compiled pipeline ({type(error).__name__}: {shorten(error)})"
        raise ConfigError(what, PACKAGE) from error


def refuse(documents: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a package that has faults.

    Raises:
        ConfigError: if it has, with the first of them.
    """
    faults = lint(documents)
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        name = documents[0]["pipelineInfo"]["name"]
        raise ConfigError(f"Pipeline {name}: {'; '.join(faults[:SHOWN])}{more}", "Fix the pipeline's code")


def lint(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """A package's faults, a sentence each.

    Args:
        documents: its YAML documents: the graph, and its Kubernetes settings if there are any.
    """
    graph, *others = documents
    settings: dict[str, Any] = {}
    for other in others:
        settings |= other["platforms"]["kubernetes"].get("deploymentSpec", {}).get("executors", {})
    tasks = _tasks(graph, settings, graph["root"])
    size = estimate_size(documents)
    parameters = graph["root"].get("inputDefinitions", {}).get("parameters", {})
    optional = [name for name, about in parameters.items() if about.get("isOptional") and "defaultValue" not in about]
    return [
        *([size.sentence] if size.is_too_large else []),
        *(f"parameter {name} may be None, which no run can pass: give it a default" for name in optional),
        *(f"task {task.name} {fault}" for task in tasks for check in CHECKS for fault in check(task)),
    ]


def _tasks(
    graph: Mapping[str, Any],
    settings: Mapping[str, Any],
    part: Mapping[str, Any],
    in_loop: bool = False,
    in_body: bool = False,
) -> Iterator[Task]:
    """The tasks of a part of the graph, and of the parts inside it."""
    definitions = part.get("inputDefinitions", {}).get("parameters", {})
    parameters = {name: about["parameterType"] for name, about in definitions.items()}
    for name, spec in part["dag"]["tasks"].items():
        component = graph["components"][spec["componentRef"]["name"]]
        label = component.get("executorLabel", "")
        container = graph["deploymentSpec"]["executors"].get(label, {}).get("container", {})
        task = Task(name, spec, container, settings.get(label, {}), parameters, in_loop, in_body)
        yield task
        if "dag" in component:
            yield from _tasks(graph, settings, component, in_loop or task.is_loop, task.is_loop)


def _plain(name: str) -> str:
    """A parameter's name in Python."""
    return name.removeprefix("pipelinechannel--")


def _undeclared(task: Task) -> Iterator[str]:
    """KFP forgets to declare a resource's parameter in a loop, and a loop's item in a text below an exit handler."""
    taken = {value.get("componentInputParameter") for value in task.inputs.values()} - {None}
    taken |= set(PARAMETER.findall(json.dumps(task.settings)))
    for name in sorted(taken - set(task.parameters)):
        yield f"uses {_plain(name)}, which no graph around it declares: make it an input of the task or a sub-pipeline"


def _retried_too_briefly(task: Task) -> Iterator[str]:
    longest = task.spec.get("retryPolicy", {}).get("backoffMaxDuration", "")
    if longest and float(longest.removesuffix("s")) < DAY_S:
        yield f"is stopped {longest} after its first attempt began: give set_retry a longer backoff_max_duration"


def _retried_in_loop(task: Task) -> Iterator[str]:
    if task.in_loop and task.spec.get("retryPolicy", {}).get("maxRetryCount"):
        yield "is in a loop, where clusters ignore its retries: write the loop in Python to unroll it"


def _loop_in_loop(task: Task) -> Iterator[str]:
    if task.in_body and task.is_loop:
        yield "is a loop in a loop, whose items local runs mix up: move the inner loop into a sub-pipeline"


def _loop_with_output(task: Task) -> Iterator[str]:
    items = task.spec.get("parameterIterator", {}).get("items", {}).get("inputParameter")
    for name, value in task.inputs.items():
        if task.is_loop and name != items and "taskOutputParameter" in value:
            yield f"reads {_plain(name)} in a loop, but local runs read its item instead: make its body a sub-pipeline"


def _item_in_condition(task: Task) -> Iterator[str]:
    if "-subvar-" in task.condition:
        yield "compares a field of a loop's item, but local runs skip it: compare a component's output instead"


def _quote_in_condition(task: Task) -> Iterator[str]:
    if re.search("['\"]", LITERAL.sub("", LOOKUP.sub("", task.condition))):
        yield "compares with a text that contains a quote, which is never true: compare with another text"


def _cached(task: Task) -> Iterator[str]:
    if task.container and task.spec.get("cachingOptions", {}).get("enableCache"):
        yield "is cached by KFP, which sees no change of data or code: call set_caching_options(False)"


def _maybe_root(task: Task) -> Iterator[str]:
    context = task.settings.get("securityContext", {})
    if task.container and not (context.get("runAsNonRoot") and int(context.get("runAsUser", 1)) > 0):
        yield "may run as root: call set_security_context with run_as_non_root"


def _vague_image(task: Task) -> Iterator[str]:
    registry, slash, rest = task.image.partition("/")
    if task.image and not (slash and (registry == "localhost" or re.search("[.:]", registry))):
        yield f"has the image {task.image} without a registry: write its full name, such as docker.io/library/…"
    if task.image and not re.search("[:@]", (rest or registry).rpartition("/")[2]):
        yield f"has the image {task.image} without a tag: add a tag or a digest"
    if task.image.endswith(":latest"):
        yield f"has the image {task.image}, which changes over time: use a fixed tag or a digest"


def _installs(task: Task) -> Iterator[str]:
    if "pip install" in " ".join(task.container.get("command", [])):
        yield "installs packages when its pod starts: add them to the image"


def _gpu_without_shared_memory(task: Task) -> Iterator[str]:
    mounts = [mount.get("mountPath") for mount in task.settings.get("emptyDirMounts", [])]
    if task.container.get("resources", {}).get("accelerator") and SHARED_MEMORY not in mounts:
        yield f"has a GPU but only a pod's default 64 MiB of {SHARED_MEMORY}: call empty_dir_mount"


def _numeric_resource(task: Task) -> Iterator[str]:
    for name in sorted(set(PLACEHOLDER.findall(json.dumps(task.container.get("resources", {}))))):
        source = task.inputs.get(name, {}).get("componentInputParameter", "")
        if task.parameters.get(source, "STRING") != "STRING":
            yield f"requests a resource by {_plain(source)}, a number, which clusters ignore: make it text"


def _secret(task: Task) -> Iterator[str]:
    for entry in task.container.get("env", []):
        if SECRET_NAME.search(entry["name"]) and entry.get("value"):
            yield f"has {entry['name']} in plain text: call use_secret_as_env"
    if SECRET_VALUE.search(json.dumps([task.spec, task.container])):
        yield "contains a password or a key in plain text: call use_secret_as_env"


CHECKS: tuple[Callable[[Task], Iterator[str]], ...] = (
    _undeclared,
    _retried_too_briefly,
    _retried_in_loop,
    _loop_in_loop,
    _loop_with_output,
    _item_in_condition,
    _quote_in_condition,
    _cached,
    _maybe_root,
    _vague_image,
    _installs,
    _gpu_without_shared_memory,
    _numeric_resource,
    _secret,
)
