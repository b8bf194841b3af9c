"""Where tasks are placed that may need a GPU: on the GPU nodes if they have work, else with the tasks without a GPU.

`plan` hands each task its number of GPUs, and each group of tasks its cores, memory, node selector and tolerations, as
outputs of its own, numbered in the order of the groups. That only the GPUs are a task's own keeps packages small: a
finished member of a recipe whose other members are in training is looked up on their nodes.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from backdrop.config.cluster import LIGHT_CPU, LIGHT_MEMORY

GPUS = "gpus"
# What the tasks of a group share, and each one's type.
SHARED: Mapping[str, type] = {"cpu": str, "memory": str, "node_selector": dict, "tolerations": list}

Groups = Sequence[Sequence[str]]  # names of tasks
Nodes = tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]  # a node selector and tolerations


def place_outputs(groups: Groups) -> dict[str, type]:
    """The outputs' types by their names."""
    tasks = sum(len(group) for group in groups)
    shared = {f"{name}_{group}": kind for group in range(len(groups)) for name, kind in SHARED.items()}
    return dict.fromkeys((f"{GPUS}_{task}" for task in range(tasks)), str) | shared


def write_places(
    folder: Path,
    groups: Groups,
    missing: Collection[str],
    amounts: tuple[str, str, str],
    gpu_nodes: Nodes,
    cpu_nodes: Nodes,
) -> None:
    """Writes each output as a file of its name, as KFP reads them.

    Args:
        folder: of the task's outputs.
        groups: the tasks that may need a GPU.
        missing: those that have work.
        amounts: GPUs of a task that has work, and cores and memory of a group that has.
        gpu_nodes: of a group that has work.
        cpu_nodes: of a group that has none.
    """
    gpus, *shared = amounts
    tasks = [task for group in groups for task in group]
    for number, task in enumerate(tasks):
        (folder / f"{GPUS}_{number}").write_text(gpus if task in missing else "0", encoding="utf-8")
    for number, group in enumerate(groups):
        works = any(task in missing for task in group)
        place = (*shared, *gpu_nodes) if works else (LIGHT_CPU, LIGHT_MEMORY, *cpu_nodes)
        for name, value in zip(SHARED, place, strict=True):
            (folder / f"{name}_{number}").write_text(
                value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
            )
