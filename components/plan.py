"""`plan` as a component: on a CPU it splits the data, and decides what there is to do and where."""

from kfp import dsl

from backdrop.components.image import cpu_component


# The outputs of `components/places.py` come on top of these: their number is the ensemble's.
@cpu_component
def plan(
    data: str,
    config: dsl.Input[dsl.Artifact],
    name: str,
    searches: str,
    objects: int,
    folds: list,
    tuned: str,
    promotion: bool,
    groups: list,
    gpus: str,
    cpu: str,
    memory: str,
    node_selector: dict,
    tolerations: list,
    cpu_node_selector: dict,
    cpu_tolerations: list,
    plans: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    missing: dsl.OutputPath(str),  # type: ignore[valid-type]  # KFP's way to name an output's file
) -> bool:
    """Makes the fold plans, and returns whether anything is missing; `missing` names it.

    `config` is the ensemble's YAML; `objects` 0 and empty `folds` mean all; `searches` is where searches write.
    `groups` are the tasks that may need a GPU, by their sub-pipelines; what follows is what such a task gets.
    One whose result exists goes to the nodes without a GPU, the last two.
    """
    from pathlib import Path

    from backdrop.components.pages import plan_page
    from backdrop.components.places import write_places
    from backdrop.config import BUDGETS
    from backdrop.steps.plan import Run
    from backdrop.steps.plan import plan as step
    from backdrop.tracking.webhook import failure_sent

    chosen = [int(fold) for fold in folds]
    run = Run(data, config.path, name, objects or None, chosen or None, BUDGETS.get(tuned), searches, promotion)
    with failure_sent("plan"):
        record = step(run, plans.path)
    plans.metadata["data"] = record.data
    summary.metadata.update(record.model_dump(mode="json"))
    Path(summary.path).write_text(plan_page(record, name), encoding="utf-8")
    Path(missing).write_text(", ".join(record.missing), encoding="utf-8")
    nodes = (node_selector, tolerations), (cpu_node_selector, cpu_tolerations)
    write_places(Path(missing).parent, groups, record.missing, (gpus, cpu, memory), *nodes)
    return bool(record.missing)
