"""Reads a run's parameters from a YAML file and checks them against the package."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.common.redact import without_credentials
from backdrop.components.image import IMAGE
from backdrop.config.cluster import Cluster, Toleration, label_fault
from backdrop.config.explain import suggest
from backdrop.config.quantity import is_quantity, is_size
from backdrop.config.records import parse, parse_yaml, read_text
from backdrop.pipelines.package import Package

# For each of KFP's types, its Python types and its name in messages.
TYPES: Mapping[str, tuple[tuple[type[Any], ...], str]] = {
    "STRING": ((str,), "text"),
    "BOOLEAN": ((bool,), "true or false"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "LIST": ((list,), "a list"),
    "STRUCT": ((dict,), "a mapping"),
}
# A Ray cluster's settings that a run has elsewhere.
OWN = {
    "image": "the cluster has the tasks' image",
    "workers": "it is the parameter ray_workers",
    **{
        key: f"it is the parameter {key}, of GPU tasks too"
        for key in ("accelerator", "gpus", "cpu", "memory", "node_selector", "tolerations")
    },
    **{
        f"head_{key}": f"it is the parameter cpu_{key}, of tasks without a GPU too"
        for key in ("node_selector", "tolerations")
    },
}
# Kubernetes checks these, and amounts, only when it creates a pod, hours into a run.
RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-A-Za-z0-9_.]+")
MINIMUM = {"objects": 0, "ray_workers": 1}


def read_parameters(path: Path, package: Package) -> dict[str, Any]:
    """Reads the parameters of a run of the package.

    Raises:
        ConfigError: if the file can't be read, a key is unknown or missing, or a value has the wrong type.
    """
    values = parse_yaml(read_text(path, "Parameters"), str(path))
    known = package.documents[0]["root"]["inputDefinitions"]["parameters"]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{path}: unknown key {name}", suggest(str(name), known))
        _check(path, name, value, known[name]["parameterType"])
    for name, about in known.items():
        if name not in values and not about.get("isOptional"):
            raise ConfigError(f"{path}: key {name} is missing", f"Add {name}")
    # What lies below an address is named with a slash, and S3 takes two for another name.
    return {name: value.rstrip("/") if storage.is_remote(value) else value for name, value in values.items()}


def with_defaults(values: Mapping[str, Any], package: Package) -> dict[str, Any]:
    """The values, with the package's defaults for missing ones."""
    known = package.documents[0]["root"]["inputDefinitions"]["parameters"]
    return {name: about["defaultValue"] for name, about in known.items() if "defaultValue" in about} | dict(values)


def tolerations_of(source: str, values: list[Any]) -> list[Toleration]:
    """Tolerations as records; `source` is what an error begins with.

    Raises:
        ConfigError: if one doesn't have Kubernetes' form.
    """
    if not all(isinstance(value, dict) for value in values):
        raise ConfigError(f"{source} must be a list of mappings", "Write each as {key: …, operator: Exists}")
    return [parse(Toleration, value, source) for value in values]


def _check(path: Path, name: str, value: Any, kfp_type: str) -> None:
    types, words = TYPES[kfp_type]
    # In Python a bool is an int, too.
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        remedy = f'Write {name}: "{value}"' if kfp_type == "STRING" and value is not None else f"Give {words}"
        raise ConfigError(f"{path}: {name} is {value!r}, not {words}", remedy)
    if isinstance(value, str) and "://" in value and without_credentials(value) != value:
        what = f"{path}: {name} contains credentials, which everybody sees who sees the run"
        raise ConfigError(what, "Put them into the Secret that tasks read")
    if name == "gpus" and not re.fullmatch(r"\d+", value):
        raise ConfigError(f"{path}: {name} is {value!r}", "Give a whole number")
    if name == "cpu" and not is_quantity(value):
        raise ConfigError(f"{path}: {name} is {value!r}", "Give a number of cores such as 4 or 500m")
    if name == "memory" and not is_size(value):
        raise ConfigError(f"{path}: {name} is {value!r}", "Give a size such as 16Gi")
    if name in MINIMUM and value < MINIMUM[name]:
        raise ConfigError(f"{path}: {name} is {value}", f"Give at least {MINIMUM[name]}")
    if name == "accelerator" and not RESOURCE.fullmatch(value):
        raise ConfigError(f"{path}: {name} is {value!r}", "Give a resource's whole name, such as nvidia.com/gpu")
    if name.endswith("node_selector") and (fault := label_fault(value)):
        raise ConfigError(f"{path}: {name}: {fault[0]}", fault[1])
    if name.endswith("tolerations"):
        tolerations_of(f"{path}: {name}", value)
    if name == "ray_cluster":
        _check_cluster(path, value)


def _check_cluster(path: Path, settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key in OWN:
            raise ConfigError(f"{path}: ray_cluster has {key}", f"Take it out: {OWN[key]}")
    parse(Cluster, {"image": IMAGE, **settings}, f"{path}: ray_cluster")
