"""`shard` as a component: on a CPU it finds the new photographs, divides them, and decides where each share runs."""

from kfp import dsl

from backdrop.components.image import cpu_component


# The outputs of `components/places.py` come on top of these: their number is that of the shares.
@cpu_component
def shard(
    images: str,
    model: str,
    out: str,
    work: str,
    format: str,  # noqa: A002  # named as the command's option
    background: str,
    crop: float,
    type: str,  # noqa: A002  # named as the command's option
    groups: list,
    gpus: str,
    cpu: str,
    memory: str,
    node_selector: dict,
    tolerations: list,
    cpu_node_selector: dict,
    cpu_tolerations: list,
    plan: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    missing: dsl.OutputPath(str),  # type: ignore[valid-type]  # KFP's way to name an output's file
) -> bool:
    """Writes the plan of the shares, and returns whether there are new photographs; `missing` names the tasks to run.

    `crop` below 0 keeps a photograph's frame. `groups` are the tasks of the shares; what follows is what a task gets
    whose share isn't predicted yet; one whose is goes to the nodes without a GPU, the last two.
    """
    from pathlib import Path

    from backdrop.components.pages import shard_page
    from backdrop.components.places import write_places
    from backdrop.config.explain import as_choice
    from backdrop.steps.predict import Format
    from backdrop.steps.shard import Request, options_of
    from backdrop.steps.shard import shard as step
    from backdrop.tracking.webhook import failure_sent

    chosen = as_choice("format", format, Format)
    tasks = [task for group in groups for task in group]
    with failure_sent("shard"):
        options = options_of(background, crop, type)
        made = step(Request(images, model, out, work, len(tasks), chosen, options))
    Path(plan.path).write_text(made.model_dump_json(), encoding="utf-8")
    Path(summary.path).write_text(shard_page(made), encoding="utf-8")
    due = [tasks[number - 1] for number in made.missing]
    Path(missing).write_text(", ".join(due), encoding="utf-8")
    nodes = (node_selector, tolerations), (cpu_node_selector, cpu_tolerations)
    write_places(Path(missing).parent, groups, due, (gpus, cpu, memory), *nodes)
    return bool(made.versions)
