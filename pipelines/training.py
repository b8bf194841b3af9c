"""The training pipeline of an ensemble: check, plan, a sub-pipeline for each recipe, evaluate, register, promote.

A recipe's sub-pipeline has a train task for each member. Members are unrolled when the graph is built, so that each has
its own name, retries and node settings. With `tuned`, a tune task for each recipe runs before its members and gives
them their schedule.

`plan` finds out what is missing. If nothing is, the run ends there; else it gives each task that may need a GPU its
resources, so that what exists already is only looked up, on any node.

`check` hands the ensemble's YAML on as a file: in each task's inputs it would stand in the package again and again.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from backdrop.components.check import check
from backdrop.components.evaluate import evaluate
from backdrop.components.image import IMAGE
from backdrop.components.places import GPUS
from backdrop.components.plan import plan
from backdrop.components.promote import promote
from backdrop.components.register import register
from backdrop.components.train import train
from backdrop.components.tune import tune
from backdrop.config import Ensemble, Part, Recipe, find_recipe
from backdrop.config.cluster import NODE_SELECTOR, PIPELINE, RETRIES, SIGNING_KEY, TOLERATIONS, TRUSTED_KEY
from backdrop.config.planned import Planned, planned
from backdrop.config.records import dump_yaml
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

Tuned = Literal["off", "fast", "full"]
RAY_WORKERS = 2
SEARCH = "tune-{recipe}-{key}"  # a search's folder


@dataclasses.dataclass(frozen=True)
class Source:
    """What tasks read: the dataset's address, the ensemble's YAML, its fold plans, and what is missing."""

    data: PipelineChannel
    config: PipelineChannel
    plans: PipelineChannel
    missing: PipelineChannel

    def inputs(self) -> dict[str, PipelineChannel]:
        """As a task's inputs."""
        return dict(vars(self))


def searched(ensemble: Ensemble, tuned: Tuned) -> list[Recipe]:
    """The recipes whose schedule is searched."""
    return [] if tuned == "off" else [part.resolve() for part in ensemble.parts()]


def with_overrides(ensemble: Ensemble, assignments: Sequence[str]) -> Ensemble:
    """The ensemble with `a.b=c` set in every recipe.

    Raises:
        ConfigError: if a recipe has no such key or the value doesn't fit.
    """

    def changed(part: Part) -> Part:
        return Part(recipe=find_recipe(part.resolve(), assignments), weight=part.weight, folds=part.folds)

    return ensemble.model_copy(update={"members": tuple(changed(part) for part in ensemble.parts())})


def training(
    ensemble: Ensemble,
    folds: Sequence[int] | None = None,
    retries: int = RETRIES,
    tuned: Tuned = "off",
    ray: bool = False,
    flat: bool = False,
) -> GraphComponent:
    """Builds the graph.

    Args:
        ensemble: what to train, its recipes written out.
        folds: only the members of these folds; None for all.
        retries: how often a task on the GPU nodes is retried.
        tuned: the budget of each recipe's schedule search before its training.
        ray: search on a Ray cluster that KubeRay creates, not in the task's own pod.
        flat: give each task a name that no other has: a local run knows it by nothing else.

    Raises:
        ConfigError: if the ensemble has no such fold.
    """
    members = planned(ensemble, folds)
    parts = [list(part) for _, part in itertools.groupby(members, key=lambda member: member.recipe.name)]
    subpipelines = [members_of_recipe(part, retries, flat) for part in parts]
    searches = searched(ensemble, tuned)
    # Only these may need a GPU: with Ray, a search's task watches other pods.
    searchers = [] if ray else [[f"tune-{recipe.name}"] for recipe in searches]
    groups = [*searchers, *([member.task for member in part] for part in parts)]
    # Kubeflow's database may refuse what isn't ASCII.
    config = dump_yaml(ensemble, unicode=False)
    description = ensemble.description.encode("ascii", "backslashreplace").decode()

    @dsl.pipeline(name=f"{PIPELINE}{ensemble.name}", description=description)
    def graph(
        data: str,
        name: str = ensemble.name,
        work: str = "/tmp/backdrop",  # noqa: S108  # the pod's own /tmp
        objects: int = 0,
        promotion: bool = True,
        accelerator: str = "nvidia.com/gpu",
        gpus: str = "1",
        cpu: str = "4",
        memory: str = "16Gi",
        node_selector: dict[str, str] = NODE_SELECTOR,
        tolerations: list[dict[str, str]] = TOLERATIONS,
        cpu_node_selector: dict[str, str] = {},  # noqa: B006  # KFP's way, and never changed
        cpu_tolerations: list[dict[str, str]] = [],  # noqa: B006  # KFP's way, and never changed
        ray_workers: int = RAY_WORKERS,
        ray_cluster: dict[str, str] = {},  # noqa: B006  # KFP's way, and never changed
    ) -> None:
        """Trains, judges and promotes the ensemble.

        Args:
            data: the dataset: an s3:// address, or a folder mounted in every pod.
            name: the registered model.
            work: folder for members in training; on a volume, a killed member resumes from its checkpoint.
            objects: use only this many objects, the first by name; 0 for all.
            promotion: whether the challenger may become the champion.
            accelerator: the GPUs' resource name.
            gpus: GPUs of each GPU task; as text, because KFP reads only text here.
            cpu: cores that each GPU task requests, and its limit.
            memory: memory of each GPU task, /dev/shm included.
            node_selector: labels of the GPU nodes.
            tolerations: tolerations of the GPU nodes' taints.
            cpu_node_selector: labels of the nodes for tasks without a GPU, and for the Ray cluster's head.
            cpu_tolerations: tolerations of those nodes' taints.
            ray_workers: pods of the Ray cluster for schedule searches, if one is used; each has the GPUs above.
            ray_cluster: that cluster's further settings, as in a cluster's YAML: head_memory, labels and so on.
        """
        pool = GpuPool(accelerator, gpus, cpu, memory, node_selector, tolerations, retries)
        nodes = CpuNodes(cpu_node_selector, cpu_tolerations)
        checked = on_cpu(check(data=data, ensemble=config, objects=objects), nodes).outputs
        planning = on_cpu(
            with_places(plan, groups)(
                data=checked["Output"],
                config=checked["config"],
                name=name,
                searches=f"{work}/{SEARCH}",
                objects=objects,
                folds=sorted(set(folds or ())),
                tuned=tuned,
                promotion=promotion,
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
        places = places_of(groups, pool, planning)
        source = Source(checked["Output"], checked["config"], planning["plans"], planning["missing"])
        # With a branch in the graph, a local run still trains the others when a member fails; without, it stops.
        with dsl.If(planning["Output"] == True, name="work"):  # noqa: E712  # KFP compiles the comparison
            found = {}
            for search in searches:
                pods = {"workers": ray_workers, "cluster": ray_cluster} if ray else {"workers": 0, "cluster": {}}
                pods |= {**pool.inputs(), **nodes.inputs("head_")}
                task = _tune(search, source, work, tuned, pods)
                place = places.get(f"tune-{search.name}")  # none for one that only watches a Ray cluster
                found[search.name] = (on_gpu(task, place) if place else on_cpu(task, nodes)).outputs["Output"]
            addresses = []
            for part, subpipeline in zip(parts, subpipelines, strict=True):
                recipe = part[0].recipe.name
                members_task = subpipeline(
                    **source.inputs(),
                    work=work,
                    recipe=recipe,
                    searched=found.get(recipe, ""),
                    **{name: value for name, value in places[part[0].task].inputs().items() if name != GPUS},
                    **{f"{GPUS}_{member.fold}": places[member.task].gpus for member in part},
                )
                addresses += [members_task.outputs[output(member)] for member in part]
            common = {"data": source.data, "config": source.config, "plans": source.plans, "tuned": bool(searches)}
            judging = evaluate(**common, members=addresses, name=name)
            evaluation = on_gpu(judging, pool, TRUSTED_KEY).outputs
            report, judged = evaluation["report"], evaluation["Output"]
            registered = register(**common, members=judged, report=report, name=name)
            model = on_cpu(registered, nodes, SIGNING_KEY, TRUSTED_KEY).outputs["Output"]
            with dsl.If(promotion == True, name="promotion"):  # noqa: E712  # KFP compiles the comparison
                on_cpu(promote(data=source.data, name=model, report=report), nodes, TRUSTED_KEY)

    return graph


def members_of_recipe(members: Sequence[Planned], retries: int, flat: bool) -> GraphComponent:
    """The sub-pipeline that trains a recipe's members side by side, and returns their addresses.

    Args:
        members: those of one recipe.
        retries: how often a task is retried.
        flat: name each task after its recipe, too. Without, the sub-pipelines of recipes with the same folds are the
            same, and a package has it once.
    """
    outputs = NamedTuple("Members", [(output(member), str) for member in members])  # type: ignore[misc]  # one for each member

    @dsl.pipeline(name=f"members-{members[0].recipe.name}")
    @with_parameters([f"{GPUS}_{member.fold}" for member in members])
    def graph(
        data: str,
        config: dsl.Input[dsl.Artifact],
        plans: dsl.Input[dsl.Dataset],
        missing: str,
        work: str,
        recipe: str,
        searched: str,
        accelerator: str,
        cpu: str,
        memory: str,
        node_selector: dict,
        tolerations: list,
        *gpus: PipelineChannel,
    ) -> outputs:
        addresses = []
        for member, own in zip(members, gpus, strict=True):
            task = named(train, member.task if flat else f"train-{member.fold}")(
                data=data,
                config=config,
                plans=plans,
                recipe=recipe,
                searched=searched,
                fold=member.fold,
                out=f"{work}/{recipe}-{member.fold}-{{key}}",
                missing=missing,
            )
            pool = GpuPool(accelerator, own, cpu, memory, node_selector, tolerations, retries)
            addresses.append(on_gpu(task, pool).outputs["Output"])
        return outputs(*addresses)

    return graph


def output(member: Planned) -> str:
    """The output of its recipe's sub-pipeline that has the member's address."""
    return f"fold_{member.fold}"


def _tune(
    recipe: Recipe,
    source: Source,
    work: PipelineChannel,
    budget: Tuned,
    pods: Mapping[str, Any],
) -> PipelineTask:
    """The tune component, named after the recipe; `pods` are those of its Ray cluster."""
    return named(tune, f"tune-{recipe.name}")(
        **source.inputs(),
        recipe=recipe.name,
        out=f"{work}/{SEARCH.replace('{recipe}', recipe.name)}",
        budget=budget,
        image=IMAGE,
        **pods,
    )
