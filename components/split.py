"""`split` as a component."""

from kfp import dsl

from backdrop.components.image import component


@component
def split(
    data: str,
    folds: int,
    holdout: float,
    by: str,
    view: str,
    seed: int,
    objects: int,
    extend: str,
    plan: dsl.Output[dsl.Dataset],
    plans: dsl.Output[dsl.Dataset],
    before: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Places every object in a fold or in the holdout; `objects` 0 takes all, an empty `view` means all views.

    A further scheme of an ensemble is given the `plans` of the task before; it takes the objects and the holdout of
    the first of them.
    """
    from backdrop.components.plans import hand_on, plan_paths
    from backdrop.config.folds import Rule, as_by
    from backdrop.steps.split import split as step

    others = plan_paths(before.path) if before else []
    first = others[0] if others else None
    rule = Rule(folds, holdout, as_by(by), seed, view or None)
    record = step(data, plan.path, rule, objects or None, extend, first)
    plan.metadata["data"] = record.data
    hand_on(others, plan.path, plans.path)
