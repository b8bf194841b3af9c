"""Compiles a pipeline: the same graph gives the same YAML, and its version changes with the graph."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.dsl.graph_component import GraphComponent

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.errors import ConfigError
from backdrop.config import Ensemble
from backdrop.config.cluster import PODS, Pods
from backdrop.pipelines.compact import compact, name_alike
from backdrop.pipelines.lint import refuse
from backdrop.pipelines.prediction import prediction
from backdrop.pipelines.size import estimate_size
from backdrop.pipelines.training import Tuned, training

DIGITS = 12
COMPILED = ", compiled by `backdrop pipeline compile`"  # ends a package's first line


@dataclass(frozen=True)
class Package:
    """A pipeline's two YAML documents: the graph and its Kubernetes settings."""

    name: str
    version: str
    documents: list[dict[str, Any]]

    def dump(self) -> bytes:
        """The bytes of the file for Kubeflow; the same graph gives the same bytes."""
        head = f"# {self.name} {self.version}{COMPILED}\n"
        return (head + yaml.safe_dump_all(self.documents, sort_keys=True, width=120)).encode()


def is_package(data: bytes) -> bool:
    """Whether a file's content begins as a package's does."""
    head = data.partition(b"\n")[0]
    return head.startswith(b"# ") and head.endswith(COMPILED.encode())


def build(
    ensemble: Ensemble,
    folds: Sequence[int] | None = None,
    tuned: Tuned = "off",
    ray: bool = False,
    pods: Pods = PODS,
) -> Package:
    """Compiles an ensemble's training pipeline.

    Args:
        ensemble: what to train, its recipes written out.
        folds: only the members of these folds; None for all.
        tuned: the budget of each recipe's schedule search.
        ray: search on a Ray cluster that KubeRay creates, not in the task's own pod.
        pods: what KFP can't take when a run starts.

    Raises:
        ConfigError: if the ensemble has no such fold or too many members, or the linter finds a fault in the package.
    """
    graph = training(ensemble, folds, pods.retries, tuned, ray)
    remedy = "Train fewer members, or some folds at a time (--folds)"
    return _package(graph, pods, f"Ensemble {ensemble.name} has too many members", remedy)


def build_prediction(shards: int, pods: Pods = PODS) -> Package:
    """Compiles the prediction pipeline.

    Args:
        shards: how many shares; each is a task of its own.
        pods: what KFP can't take when a run starts.

    Raises:
        ConfigError: if there are too many shares, or the linter finds a fault in the package.
    """
    return _package(prediction(shards, pods.retries), pods, f"{shards} shares are too many", "Use fewer --shards")


def _package(graph: GraphComponent, pods: Pods, too_large: str, remedy: str) -> Package:
    documents = _compile(graph)
    for settings in _settings(documents).values():
        settings.update(pods.settings())
    size = estimate_size(documents)
    if size.is_too_large:
        raise ConfigError(f"{too_large}: {size.sentence}", remedy)
    refuse(documents)
    version = f"{__version__}-{digest(documents)[:DIGITS]}"
    info = documents[0]["pipelineInfo"]
    info["description"] = f"{info.get('description', '')} (version {version})".strip()
    return Package(info["name"], version, documents)


def digest(documents: Sequence[dict[str, Any]]) -> str:
    """sha256 of the documents' content; KFP may write the same graph in another order each time."""
    return storage.sha256(json.dumps(documents, sort_keys=True).encode())


def _compile(graph: GraphComponent) -> list[dict[str, Any]]:
    """What `kfp.compiler.Compiler` writes, without the YAML: that takes most of its time, and would only be parsed."""
    specs = [json_format.MessageToDict(spec) for spec in (graph.pipeline_spec, graph.platform_spec)]
    documents: list[dict[str, Any]] = json.loads(name_alike(json.dumps(specs)))
    compact(documents[0], _settings(documents))
    return documents


def _settings(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The Kubernetes settings of a package's executors, by their labels."""
    settings: dict[str, Any] = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return settings
