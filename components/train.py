"""`train` as a component: one recipe on one fold."""

from typing import TYPE_CHECKING

from kfp import dsl

from backdrop.components.image import component

if TYPE_CHECKING:
    from backdrop.steps.train import TrainRecord


@component
def train(
    data: str,
    config: dsl.Input[dsl.Artifact],
    plans: dsl.Input[dsl.Dataset],
    recipe: str,
    searched: str,
    fold: int,
    out: str,
    missing: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Trains a member, or reuses a finished one, and returns its address; `page` shows its curves and its worst masks.

    `recipe` is the name of one in the ensemble's YAML, `config`; `searched` is its YAML with the schedule that a search
    found, or empty. A member that isn't among the `missing` tasks was found by `plan` and has no GPU: it isn't trained.
    """
    from pathlib import Path

    from backdrop.common.watch import watched
    from backdrop.components.pages import member_figures, recipe_file
    from backdrop.components.plans import recipe_plan
    from backdrop.report.member import render_member
    from backdrop.steps.members import open_member
    from backdrop.steps.train import reuse
    from backdrop.steps.train import train as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("train"), recipe_file(config.path, recipe, searched) as path:
        plan = recipe_plan(plans.path, config.path, recipe)

        def work() -> "TrainRecord":
            missed = f"train-{recipe}-{fold}" in missing.split(", ")
            record = step(data, plan, path, fold, out) if missed else reuse(data, plan, path, fold)
            Path(page.path).write_text(render_member(open_member(record.address)), encoding="utf-8")
            return record

        # The page is drawn there, too: MLflow takes seconds to be loaded once more.
        record = watched("train", work)
    metrics.metadata.update(member_figures(record))
    return record.address
