"""Where tasks are placed that may need a GPU: on the GPU nodes if there is work for them, else on any node.

`plan` hands each task its number of GPUs, and each group of tasks its cores, memory and node selector, as outputs
of its own, numbered in the order of the groups. That only the GPUs are a task's own keeps packages small: a finished
member of a recipe whose other members are in training is looked up on their nodes.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from backdrop.config.cluster import LIGHT_CPU, LIGHT_MEMORY

GPUS = "gpus"
SHARED = ("cpu", "memory", "node_selector")

Groups = Sequence[Sequence[str]]  # names of tasks


def place_outputs(groups: Groups) -> dict[str, type]:
    """The outputs' types by their names."""
    tasks = sum(len(group) for group in groups)
    shared: dict[str, type] = {
        f"{name}_{group}": dict if name == "node_selector" else str for group in range(len(groups)) for name in SHARED
    }
    return dict.fromkeys((f"{GPUS}_{task}" for task in range(tasks)), str) | shared


def write_places(
    folder: Path, groups: Groups, missing: Collection[str], gpus: str, shared: tuple[str, str, Mapping[str, str]]
) -> None:
    """Writes each output as a file of its name, as KFP reads them.

    Args:
        folder: of the task's outputs.
        groups: the tasks that may need a GPU.
        missing: those that have work.
        gpus: GPUs of a task that has work.
        shared: cores, memory and node selector of a group that has work.
    """
    tasks = [task for group in groups for task in group]
    for number, task in enumerate(tasks):
        (folder / f"{GPUS}_{number}").write_text(gpus if task in missing else "0", encoding="utf-8")
    for number, group in enumerate(groups):
        works = any(task in missing for task in group)
        for name, value in zip(SHARED, shared if works else (LIGHT_CPU, LIGHT_MEMORY, {}), strict=True):
            (folder / f"{name}_{number}").write_text(
                value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
            )
