"""The training pipeline of an ensemble: check, split, a train task for each member, evaluate, register, promote.

Members are unrolled when the graph is built, so that each has its own name, retries and place on the nodes.
"""

import dataclasses
from collections.abc import Sequence

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.python_component import PythonComponent

from backdrop.config import dump_yaml, override, parse
from backdrop.errors import ConfigError
from backdrop.recipe import Ensemble, Part, Recipe
from components.check import check
from components.evaluate import evaluate
from components.promote import promote
from components.register import register
from components.split import split
from components.train import train
from pipelines.cluster import NODE_SELECTOR, RETRIES, TOLERATIONS, Pool, on_gpu, settle


@dataclasses.dataclass(frozen=True)
class Planned:
    """A member that the pipeline trains."""

    recipe: Recipe
    fold: int

    @property
    def name(self) -> str:
        """`<recipe>-<fold>`."""
        return f"{self.recipe.name}-{self.fold}"

    @property
    def task(self) -> str:
        """Its task's name."""
        return f"train-{self.name}"


def planned(ensemble: Ensemble, folds: Sequence[int] | None = None) -> list[Planned]:
    """The members of an ensemble, of all folds or of some.

    Raises:
        ConfigError: if the ensemble has no such fold.
    """
    known = range(ensemble.folds.count)
    for fold in folds or ():
        if fold not in known:
            raise ConfigError(f"Ensemble {ensemble.name} has no fold {fold}", f"Use some of 0 to {len(known) - 1}")
    chosen = sorted(set(folds)) if folds else known
    return [Planned(part.resolve(), fold) for part in ensemble.parts() for fold in chosen]


def with_overrides(ensemble: Ensemble, assignments: Sequence[str]) -> Ensemble:
    """The ensemble with `a.b=c` set in every recipe.

    Raises:
        ConfigError: if a recipe has no such key or the value doesn't fit.
    """

    def changed(part: Part) -> Part:
        recipe = part.resolve()
        values = override(recipe.model_dump(mode="json"), assignments)
        return Part(recipe=parse(Recipe, values, recipe.name), weight=part.weight, folds=part.folds)

    return ensemble.model_copy(update={"members": tuple(changed(part) for part in ensemble.parts())})


def training(ensemble: Ensemble, folds: Sequence[int] | None = None, retries: int = RETRIES) -> GraphComponent:
    """Builds the graph.

    Args:
        ensemble: what to train, its recipes written out.
        folds: only the members of these folds; None for all.
        retries: how often a task on the GPU nodes is tried again.

    Raises:
        ConfigError: if the ensemble has no such fold.
    """
    members = planned(ensemble, folds)
    config = dump_yaml(ensemble)

    @dsl.pipeline(name=f"backdrop-{ensemble.name}", description=ensemble.description)
    def graph(
        data: str,
        name: str = ensemble.name,
        work: str = "/tmp/backdrop",  # noqa: S108  # in a pod of its own
        objects: int = 0,
        promotion: bool = True,
        accelerator: str = "nvidia.com/gpu",
        gpus: str = "1",
        cpu: str = "4",
        memory: str = "16Gi",
        node_selector: dict[str, str] = NODE_SELECTOR,
        tolerations: list[dict[str, str]] = TOLERATIONS,
    ) -> None:
        """Trains, judges and promotes the ensemble.

        Args:
            data: the dataset: an s3:// address, or a folder that every pod has.
            name: the registered model.
            work: where members are worked on; on a volume, a killed one goes on where it was.
            objects: only the first so many objects by name; 0 for all.
            promotion: whether the challenger may become the champion.
            accelerator: the GPUs' resource name.
            gpus: how many a task gets; text, because KFP reads only text here.
            cpu: cores that a GPU task asks for.
            memory: what a GPU task may use, /dev/shm included.
            node_selector: labels of the GPU nodes.
            tolerations: of the GPU nodes' taints.
        """
        pool = Pool(accelerator, gpus, cpu, memory, node_selector, tolerations, retries)
        checked = settle(check(data=data)).outputs["Output"]
        plan = settle(_split(ensemble, checked, objects, name)).outputs["plan"]
        trained = [settle(on_gpu(_train(member, checked, plan, work), pool)) for member in members]
        common = {"data": checked, "plan": plan, "members": [task.outputs["Output"] for task in trained]}
        report = settle(on_gpu(evaluate(**common, ensemble=config), pool)).outputs["report"]
        model = settle(register(**common, report=report, ensemble=config, name=name)).outputs["Output"]
        # Locally, a graph with a branch goes on with a failed member's siblings; a plain one stops.
        with dsl.If(promotion == True):  # noqa: E712  # KFP compiles the comparison
            settle(on_gpu(promote(data=checked, name=model, report=report), pool))

    return graph


def _split(ensemble: Ensemble, data: PipelineChannel, objects: PipelineChannel, name: PipelineChannel) -> PipelineTask:
    """A champion's plan is extended: what it never saw must stay unseen, or the two can't be compared."""
    rule = ensemble.folds
    return split(
        data=data,
        folds=rule.count,
        holdout=rule.holdout,
        by=rule.by,
        seed=rule.seed,
        objects=objects,
        extend=f"models:/{name}@champion",
    )


def _train(member: Planned, data: PipelineChannel, plan: PipelineChannel, work: PipelineChannel) -> PipelineTask:
    """The train component under the member's name; the step fills in `{key}`."""
    spec = dataclasses.replace(train.component_spec, name=member.task)
    return PythonComponent(spec, train.python_func)(
        data=data,
        plan=plan,
        recipe=dump_yaml(member.recipe),
        fold=member.fold,
        out=f"{work}/{member.name}-{{key}}",
    )
