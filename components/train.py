"""`train` as a component: one recipe on one fold."""

from kfp import dsl

from backdrop.components.image import component


@component
def train(
    data: str, plan: dsl.Input[dsl.Dataset], recipe: str, fold: int, out: str, metrics: dsl.Output[dsl.Metrics]
) -> str:
    """Trains a member, or reuses a finished one, and returns its address; `recipe` is the recipe's YAML."""
    from backdrop.components.pages import as_file, member_figures
    from backdrop.steps.train import train as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("train"), as_file(recipe) as path:
        record = step(data, plan.path, path, fold, out)
    metrics.metadata.update(member_figures(record))
    return record.address
