"""`tune` as a component: it searches one recipe's schedule."""

from kfp import dsl

from backdrop.components.image import component


# What the pods get comes as a parameter each, not as one struct: kfp puts a run's own values into a struct as text, so
# that a mapping or a list in it, such as node_selector, isn't JSON any more.
@component
def tune(
    data: str,
    config: dsl.Input[dsl.Artifact],
    plans: dsl.Input[dsl.Dataset],
    recipe: str,
    out: str,
    budget: str,
    missing: str,
    workers: int,
    image: str,
    accelerator: str,
    gpus: str,
    cpu: str,
    memory: str,
    node_selector: dict,
    tolerations: list,
    head_node_selector: dict,
    head_tolerations: list,
    cluster: dict,
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Searches a schedule, or reuses a finished search, and returns the recipe's YAML with it.

    `recipe` is the name of one in the ensemble's YAML, `config`. `budget` is fast or full. With `workers`, it searches
    on a cluster of that many pods that KubeRay creates, with this image, on these nodes and with what `cluster` says
    beside; otherwise in its own pod.
    A search that isn't among the `missing` tasks was found by `plan`, and isn't made.
    """
    import json
    from contextlib import nullcontext
    from pathlib import Path

    from backdrop.common import storage
    from backdrop.common.watch import watched
    from backdrop.components.pages import as_file, recipe_file, search_figures, search_page
    from backdrop.components.plans import recipe_plan
    from backdrop.config import BUDGETS, find_recipe, read_over
    from backdrop.config.records import dump_yaml
    from backdrop.steps.tune import PAGE, SCHEDULE, Resources, reuse
    from backdrop.steps.tune import tune as step
    from backdrop.tracking.webhook import failure_sent

    pods = {"image": image, "workers": workers, "accelerator": accelerator, "memory": memory}
    pods |= {"gpus": int(gpus), "cpu": cpu, "node_selector": node_selector, "tolerations": tolerations}
    pods |= {"head_node_selector": head_node_selector, "head_tolerations": head_tolerations}
    cluster_file = as_file(json.dumps(cluster | pods)) if workers else nullcontext()
    with failure_sent("tune"), recipe_file(config.path, recipe) as path, cluster_file as cluster_path:
        plan, resources = recipe_plan(plans.path, config.path, recipe), Resources(cluster=cluster_path)
        if f"tune-{recipe}" in missing.split(", "):
            record = watched("tune", lambda: step(data, plan, path, out, BUDGETS[budget], resources=resources))
        else:
            record = reuse(plan, path, out, BUDGETS[budget])
        tuned = find_recipe(path, (), read_over(f"{record.out}/{SCHEDULE}"))
    metrics.metadata.update(search_figures(record.search))
    Path(summary.path).write_text(search_page(record.search), encoding="utf-8")
    Path(page.path).write_bytes(storage.read_bytes(f"{record.out}/{PAGE}"))
    return dump_yaml(tuned)
