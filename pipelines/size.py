"""How large a run of a package becomes on Kubernetes, where Argo keeps all of it in one object of at most 1 MiB.

The figures were measured on Kubeflow Pipelines 2.17 with Argo 4.0.5, whose object holds each task of the package twice,
and the state of each task in several nodes, which it compresses once they would not fit otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 900_000  # bytes; the rest up to 1 MiB is for retries, two nodes each
COPIES, FRAME = 1.88, 20_000
NODE = 850  # bytes, compressed
TASK_NODES, GROUP_NODES = 6, 2


@dataclass(frozen=True)
class Size:
    """A run's size.

    Attributes:
        spec: bytes before the first pod.
        end: bytes at the end of a run without retries.
    """

    spec: int
    end: int

    @property
    def is_too_large(self) -> bool:
        """Whether a run may not come to its end."""
        return self.end > MOST

    @property
    def sentence(self) -> str:
        """Says how large a run becomes."""
        return f"a run grows to {self.end / 1000:,.0f} kB without retries; Argo keeps 1,049 kB at most"


def estimate_size(documents: Sequence[Mapping[str, Any]]) -> Size:
    """Estimates a run's size from the package's YAML documents."""
    text = sum(len(json.dumps(document, separators=(",", ":"))) for document in documents)
    spec = round(COPIES * text) + FRAME
    return Size(spec, spec + NODE * _nodes(documents[0], documents[0]["root"]))


def _nodes(graph: Mapping[str, Any], part: Mapping[str, Any]) -> int:
    components = (graph["components"][task["componentRef"]["name"]] for task in part["dag"]["tasks"].values())
    return GROUP_NODES + sum(_nodes(graph, one) if "dag" in one else TASK_NODES for one in components)
