"""A task's settings on a cluster: never root, its environment and the GPU nodes. Local runs ignore them."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.python_component import PythonComponent
from kfp.dsl.structures import OutputSpec

from backdrop.components.places import GPUS, SHARED, Groups, place_outputs
from backdrop.config.cluster import (
    CONFIG_KEYS,
    LIGHT_CPU,
    LIGHT_CPU_LIMIT,
    LIGHT_MEMORY,
    NETWORK,
    NETWORK_FOLDER,
    NETWORK_KEYS,
    SECRET_KEYS,
    SETTINGS,
    SHARED_MEMORY,
    SHARED_MEMORY_SIZE,
    TASK_PREFIX,
    WEBHOOK_KEYS,
)

# Argo counts this from the start of the *first* attempt, and stops an attempt that runs when it is over.
LIFETIME_S = 90 * 24 * 3600


@dataclass(frozen=True)
class GpuPool:
    """The GPU nodes and a task's share of them, as pipeline parameters that are set when a run starts."""

    accelerator: PipelineChannel
    gpus: PipelineChannel
    cpu: PipelineChannel
    memory: PipelineChannel
    node_selector: PipelineChannel
    tolerations: PipelineChannel
    retries: int

    def inputs(self) -> dict[str, PipelineChannel]:
        """The parameters, as a task's or a sub-pipeline's inputs."""
        return {name: value for name, value in vars(self).items() if name != "retries"}


@dataclass(frozen=True)
class CpuNodes:
    """The nodes of tasks without a GPU, as pipeline parameters that are set when a run starts."""

    node_selector: PipelineChannel
    tolerations: PipelineChannel

    def inputs(self, prefix: str = "cpu_") -> dict[str, PipelineChannel]:
        """The parameters, as a task's inputs that have this prefix."""
        return {f"{prefix}{name}": value for name, value in vars(self).items()}


def _configure(task: PipelineTask, secrets: Sequence[str]) -> None:
    """Settings of every task: not root, an environment from the cluster, and no KFP cache, which misses changes."""
    task.set_caching_options(False)
    task.set_env_variable("PYTHONUNBUFFERED", "1")  # or a pod's log lags behind
    # No user: it is the image's, or one that the cluster assigns, as OpenShift does.
    kubernetes.set_security_context(task, run_as_non_root=True)
    kubernetes.use_config_map_as_env(task, SETTINGS, _variables(CONFIG_KEYS), optional=True)
    kubernetes.use_config_map_as_env(task, NETWORK, _variables(NETWORK_KEYS), optional=True)
    kubernetes.use_config_map_as_volume(task, NETWORK, NETWORK_FOLDER, optional=True)
    keys = _variables([*SECRET_KEYS, *WEBHOOK_KEYS, *secrets])
    kubernetes.use_secret_as_env(task, SETTINGS, keys, optional=True)


def _variables(keys: Sequence[str]) -> dict[str, str]:
    """A task's environment variable for each key of a ConfigMap or Secret."""
    return {key: f"{TASK_PREFIX}{key}" if key.startswith("AWS_") else key for key in keys}


def on_cpu(task: PipelineTask, nodes: CpuNodes, *secrets: str) -> PipelineTask:
    """Settings of a task that runs no network.

    `secrets` are further keys of the cluster's Secret, which other tasks have no use for.
    """
    _configure(task, secrets)
    # Where there is a quota, a pod without a request or a limit is refused.
    task.set_cpu_request(LIGHT_CPU).set_cpu_limit(LIGHT_CPU_LIMIT)
    task.set_memory_request(LIGHT_MEMORY).set_memory_limit(LIGHT_MEMORY)
    kubernetes.add_node_selector_json(task, nodes.node_selector)
    kubernetes.add_toleration_json(task, nodes.tolerations)
    return task


def on_gpu(task: PipelineTask, pool: GpuPool, *secrets: str) -> PipelineTask:
    """Settings of a task that runs networks: a GPU, shared memory, and a retry if its node goes away."""
    _configure(task, secrets)
    task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.gpus)
    task.set_cpu_request(pool.cpu).set_cpu_limit(pool.cpu)
    task.set_memory_request(pool.memory).set_memory_limit(pool.memory)
    # Without this the compiler leaves them undeclared inside a dsl.If.
    task.register_pipeline_channels([pool.accelerator, pool.gpus, pool.cpu, pool.memory])
    kubernetes.add_node_selector_json(task, pool.node_selector)
    kubernetes.add_toleration_json(task, pool.tolerations)
    kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit=SHARED_MEMORY_SIZE)
    if pool.retries:
        task.set_retry(pool.retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{LIFETIME_S}s")
    return task


def named(component: PythonComponent, name: str) -> PythonComponent:
    """The component under another name, which its task has, too."""
    return PythonComponent(dataclasses.replace(component.component_spec, name=name), component.python_func)


def with_places(component: PythonComponent, groups: Groups) -> PythonComponent:
    """A component that decides where tasks run, with outputs that say where each of them is placed."""
    spec = component.component_spec
    kinds: dict[type, str] = {str: "String", dict: "Dict", list: "List"}
    outputs = {name: OutputSpec(kinds[kind]) for name, kind in place_outputs(groups).items()}
    return PythonComponent(
        dataclasses.replace(spec, outputs={**(spec.outputs or {}), **outputs}), component.python_func
    )


def places_of(groups: Groups, pool: GpuPool, outputs: Mapping[str, PipelineChannel]) -> dict[str, GpuPool]:
    """Each task's place by its name, from the outputs of a component made by `with_places`."""
    numbers = itertools.count()
    return {
        task: dataclasses.replace(
            pool,
            gpus=outputs[f"{GPUS}_{number}"],
            **{name: outputs[f"{name}_{group}"] for name in SHARED},
        )
        for group, tasks in enumerate(groups)
        for task, number in zip(tasks, numbers, strict=False)
    }


def with_parameters(names: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a function a parameter for each of the names instead of its `*`: KFP reads signatures."""

    def change(graph: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(graph)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_POSITIONAL]
        more = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str) for name in names]
        signature = signature.replace(parameters=[*own, *more])
        graph.__signature__ = signature  # type: ignore[attr-defined]  # a function has it once it is set
        return graph

    return change
