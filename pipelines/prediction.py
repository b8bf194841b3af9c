"""The prediction pipeline: shard, a predict task for each share, merge.

Shares are unrolled when the graph is built, so that each has its own name, retries and node settings, and one that
fails is tried alone. `shard` finds the photographs that have no results yet; if there are none, the run ends there. A
share whose output is whole is only looked up, on any node.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from backdrop.components.merge import merge
from backdrop.components.places import GPUS
from backdrop.components.predict import predict
from backdrop.components.shard import shard
from backdrop.config.cluster import NODE_SELECTOR, PIPELINE, RETRIES, TOLERATIONS, TRUSTED_KEY
from backdrop.pipelines.task_settings import (
    CpuNodes,
    GpuPool,
    named,
    on_cpu,
    on_gpu,
    places_of,
    with_parameters,
    with_places,
)

NAME = "prediction"


def prediction(shards: int, retries: int = RETRIES) -> GraphComponent:
    """Builds the graph.

    Args:
        shards: how many shares; each is a task of its own.
        retries: how often a task on the GPU nodes is retried.
    """
    tasks = [f"predict-{number}" for number in range(1, shards + 1)]
    groups, shares = [tasks], _shares(tasks, retries)

    @dsl.pipeline(name=f"{PIPELINE}{NAME}", description="Predicts photographs by a registered model.")
    def graph(
        images: str,
        model: str,
        out: str,
        work: str,
        format: str = "cutout",  # noqa: A002  # named as the command's option
        background: str = "",
        crop: float = -1.0,
        type: str = "png",  # noqa: A002  # named as the command's option
        accelerator: str = "nvidia.com/gpu",
        gpus: str = "1",
        cpu: str = "4",
        memory: str = "16Gi",
        node_selector: dict[str, str] = NODE_SELECTOR,
        tolerations: list[dict[str, str]] = TOLERATIONS,
        cpu_node_selector: dict[str, str] = {},  # noqa: B006  # KFP's way, and never changed
        cpu_tolerations: list[dict[str, str]] = [],  # noqa: B006  # KFP's way, and never changed
    ) -> None:
        """Predicts the photographs that have no results yet.

        Args:
            images: the photographs: an s3:// address, or a folder mounted in every pod.
            model: the registered model: models:/NAME@champion.
            out: where all results are merged.
            work: where each share has its own, for every pod to read: an s3:// address, or a folder on a volume.
            format: cutout, mask, alpha, rle or submission.
            background: a color, or a picture's address; empty for transparent cut-outs.
            crop: a cut-out's margin in percent; below 0, it keeps the photograph's frame.
            type: of cut-outs: png, webp or jpeg.
            accelerator: the GPUs' resource name.
            gpus: GPUs of each share's task; as text, because KFP reads only text here.
            cpu: cores that each share's task requests, and its limit.
            memory: memory of each share's task, /dev/shm included.
            node_selector: labels of the GPU nodes.
            tolerations: tolerations of the GPU nodes' taints.
            cpu_node_selector: labels of the nodes for tasks without a GPU.
            cpu_tolerations: tolerations of those nodes' taints.
        """
        pool = GpuPool(accelerator, gpus, cpu, memory, node_selector, tolerations, retries)
        nodes = CpuNodes(cpu_node_selector, cpu_tolerations)
        style = {"format": format, "background": background, "crop": crop, "type": type}
        sharing = on_cpu(
            with_places(shard, groups)(
                images=images,
                model=model,
                out=out,
                work=work,
                **style,
                groups=groups,
                gpus=gpus,
                cpu=cpu,
                memory=memory,
                node_selector=node_selector,
                tolerations=tolerations,
                **nodes.inputs(),
            ),
            nodes,
            TRUSTED_KEY,
        ).outputs
        places = places_of(groups, pool, sharing)
        with dsl.If(sharing["Output"] == True, name="work"):  # noqa: E712  # KFP compiles the comparison
            place = {name: value for name, value in places[tasks[0]].inputs().items() if name != GPUS}
            own = {f"{GPUS}_{number}": places[task].gpus for number, task in enumerate(tasks)}
            predicted = shares(plan=sharing["plan"], **style, **place, **own).outputs
            merging = merge(plan=sharing["plan"], parts=[predicted[_output(task)] for task in tasks], out=out)
            on_cpu(merging, nodes)

    return graph


def _shares(tasks: Sequence[str], retries: int) -> GraphComponent:
    """The sub-pipeline that predicts all shares side by side, and returns their addresses.

    Each task's GPUs are a parameter of its own, by which a package has the task's executor only once.
    """
    outputs = NamedTuple("Shares", [(_output(task), str) for task in tasks])  # type: ignore[misc]  # one for each share

    @dsl.pipeline(name="shares")
    @with_parameters([f"{GPUS}_{number}" for number in range(len(tasks))])
    def graph(
        plan: dsl.Input[dsl.Artifact],
        format: str,  # noqa: A002  # named as the command's option
        background: str,
        crop: float,
        type: str,  # noqa: A002  # named as the command's option
        accelerator: str,
        cpu: str,
        memory: str,
        node_selector: dict,
        tolerations: list,
        *gpus: PipelineChannel,
    ) -> outputs:
        addresses = []
        for number, (task, own) in enumerate(zip(tasks, gpus, strict=True), 1):
            share = named(predict, task)(
                plan=plan, number=number, format=format, background=background, crop=crop, type=type
            )
            pool = GpuPool(accelerator, own, cpu, memory, node_selector, tolerations, retries)
            addresses.append(on_gpu(share, pool, TRUSTED_KEY).outputs["Output"])
        return outputs(*addresses)

    return graph


def _output(task: str) -> str:
    """The output of the sub-pipeline that has the address of a share."""
    return task.replace("-", "_")
