"""The training pipeline of an ensemble: check, split, a sub-pipeline for each recipe, evaluate, register, promote.

A recipe's sub-pipeline has a train task for each member. Members are unrolled when the graph is built, so that each has
its own name, retries and node settings. With `tuned`, a tune task for each recipe runs before its members and gives
them their schedule. An ensemble whose recipes use several fold schemes has a split task for each, one after another.

`check` hands the ensemble's YAML on as a file: in each task's inputs it would stand in the package again and again.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.python_component import PythonComponent

from backdrop.common.errors import ConfigError
from backdrop.components.check import check
from backdrop.components.evaluate import evaluate
from backdrop.components.image import IMAGE
from backdrop.components.promote import promote
from backdrop.components.register import register
from backdrop.components.split import split
from backdrop.components.train import train
from backdrop.components.tune import tune
from backdrop.config import Ensemble, Part, Recipe
from backdrop.config.catalog import change_recipe
from backdrop.config.cluster import NODE_SELECTOR, PIPELINE, RETRIES, SIGNING_KEY, TOLERATIONS, TRUSTED_KEY
from backdrop.config.folds import Rule
from backdrop.config.records import dump_yaml
from backdrop.pipelines.task_settings import GpuPool, configure, on_gpu

Tuned = Literal["off", "fast", "full"]
RAY_WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Planned:
    """A member that the pipeline trains; `rule` is the fold scheme of its recipe."""

    recipe: Recipe
    fold: int
    rule: Rule

    @property
    def name(self) -> str:
        """`<recipe>-<fold>`."""
        return f"{self.recipe.name}-{self.fold}"

    @property
    def task(self) -> str:
        """Its task's name."""
        return f"train-{self.name}"


@dataclasses.dataclass(frozen=True)
class Source:
    """What every task reads: the dataset's address, the ensemble's YAML, the folder for work in progress."""

    data: PipelineChannel
    config: PipelineChannel
    work: PipelineChannel

    def inputs(self) -> dict[str, PipelineChannel]:
        """As a task's inputs."""
        return dict(vars(self))


def planned(ensemble: Ensemble, folds: Sequence[int] | None = None) -> list[Planned]:
    """The members of an ensemble, of all folds or of some; a recipe has as many folds as its own scheme.

    Raises:
        ConfigError: if none of its schemes has such a fold.
    """
    rules = [(part.resolve(), ensemble.rule(part)) for part in ensemble.parts()]
    known = range(max(rule.folds for _, rule in rules))
    for fold in folds or ():
        if fold not in known:
            raise ConfigError(f"Ensemble {ensemble.name} has no fold {fold}", f"Its folds are 0 to {len(known) - 1}")
    chosen = sorted(set(folds)) if folds else known
    return [Planned(recipe, fold, rule) for recipe, rule in rules for fold in chosen if fold < rule.folds]


def searched(ensemble: Ensemble, tuned: Tuned) -> list[tuple[Recipe, Rule]]:
    """The recipes whose schedule is searched, each with its fold scheme."""
    return [] if tuned == "off" else [(part.resolve(), ensemble.rule(part)) for part in ensemble.parts()]


def with_overrides(ensemble: Ensemble, assignments: Sequence[str]) -> Ensemble:
    """The ensemble with `a.b=c` set in every recipe.

    Raises:
        ConfigError: if a recipe has no such key or the value doesn't fit.
    """

    def changed(part: Part) -> Part:
        return Part(recipe=change_recipe(part.resolve(), assignments), weight=part.weight, folds=part.folds)

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
    groups = [members_of_recipe(part, retries, flat) for part in parts]
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
        ray_workers: int = RAY_WORKERS,
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
            cpu: cores that each GPU task requests.
            memory: memory of each GPU task, /dev/shm included.
            node_selector: labels of the GPU nodes.
            tolerations: tolerations of the GPU nodes' taints.
            ray_workers: pods of the Ray cluster for schedule searches, if one is used; each has the GPUs above.
        """
        pool = GpuPool(accelerator, gpus, cpu, memory, node_selector, tolerations, retries)
        checking = configure(check(data=data, ensemble=config, objects=objects))
        source = Source(checking.outputs["Output"], checking.outputs["config"], work)
        splits = _splits(ensemble, source.data, objects, name)
        plans = {rule: task.outputs["plan"] for rule, task in splits.items()}
        searches = {
            recipe.name: _tune(recipe, source, plans[rule], tuned, pool, ray_workers if ray else None).outputs["Output"]
            for recipe, rule in searched(ensemble, tuned)
        }
        addresses = []
        for part, group in zip(parts, groups, strict=True):
            recipe = part[0].recipe.name
            task = group(
                **source.inputs(),
                plan=plans[part[0].rule],
                recipe=recipe,
                searched=searches.get(recipe, ""),
                **pool.inputs(),
            )
            addresses += [task.outputs[output(member)] for member in part]
        common = {
            "data": source.data,
            "config": source.config,
            "plans": list(splits.values())[-1].outputs["plans"],
            "tuned": bool(searches),
        }
        evaluation = on_gpu(configure(evaluate(**common, members=addresses)), pool).outputs
        report, judged = evaluation["report"], evaluation["Output"]
        registered = register(**common, members=judged, report=report, name=name)
        model = configure(registered, SIGNING_KEY, TRUSTED_KEY).outputs["Output"]
        # With a branch in the graph, a local run still trains the others when a member fails; without, it stops.
        with dsl.If(promotion == True, name="promotion"):  # noqa: E712  # KFP compiles the comparison
            on_gpu(configure(promote(data=source.data, name=model, report=report), TRUSTED_KEY), pool)

    return graph


def _splits(
    ensemble: Ensemble, data: PipelineChannel, objects: PipelineChannel, name: PipelineChannel
) -> dict[Rule, PipelineTask]:
    """A split task for each fold scheme, the ensemble's own first; each passes on the plans before its own.

    They extend the champion's plans: its holdout must stay the holdout, or the two can't be compared.
    """
    tasks: dict[Rule, PipelineTask] = {}
    before: dict[str, PipelineChannel] = {}
    for rule in ensemble.plans():
        task = split(
            data=data,
            folds=rule.folds,
            holdout=rule.holdout,
            by=rule.by,
            view=rule.view or "",
            seed=rule.seed,
            objects=0 if before else objects,
            extend=f"models:/{name}@champion",
            **before,
        )
        tasks[rule] = configure(task)
        before = {"before": task.outputs["plans"]}
    return tasks


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
    def graph(
        data: str,
        config: dsl.Input[dsl.Artifact],
        plan: dsl.Input[dsl.Dataset],
        work: str,
        recipe: str,
        searched: str,
        accelerator: str,
        gpus: str,
        cpu: str,
        memory: str,
        node_selector: dict,
        tolerations: list,
    ) -> outputs:
        pool = GpuPool(accelerator, gpus, cpu, memory, node_selector, tolerations, retries)
        addresses = []
        for member in members:
            task = _named(train, member.task if flat else f"train-{member.fold}")(
                data=data,
                config=config,
                plan=plan,
                recipe=recipe,
                searched=searched,
                fold=member.fold,
                out=f"{work}/{recipe}-{member.fold}-{{key}}",
            )
            addresses.append(on_gpu(configure(task), pool).outputs["Output"])
        return outputs(*addresses)

    return graph


def output(member: Planned) -> str:
    """The output of its recipe's sub-pipeline that has the member's address."""
    return f"fold_{member.fold}"


def _tune(
    recipe: Recipe,
    source: Source,
    plan: PipelineChannel,
    budget: Tuned,
    pool: GpuPool,
    workers: PipelineChannel | None,
) -> PipelineTask:
    """The tune component, named after the recipe; a task that only watches a Ray cluster takes no GPU."""
    task = _named(tune, f"tune-{recipe.name}")(
        data=source.data,
        config=source.config,
        plan=plan,
        recipe=recipe.name,
        out=f"{source.work}/tune-{recipe.name}-{{key}}",
        budget=budget,
        workers=workers or 0,
        image=IMAGE,
        **pool.inputs(),
    )
    task = configure(task)
    return task if workers else on_gpu(task, pool)


def _named(component: PythonComponent, name: str) -> PythonComponent:
    return PythonComponent(dataclasses.replace(component.component_spec, name=name), component.python_func)
