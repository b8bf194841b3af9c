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
    """Assigns every object to a fold or to the holdout; `objects` 0 means all, an empty `view` means all views.

    For an ensemble's further schemes, `before` has the plans of the earlier ones: the new plan has the objects and the
    holdout of the first.
    """
    from backdrop.components.plans import pass_on, plan_paths
    from backdrop.config.explain import as_choice
    from backdrop.config.folds import By, Rule
    from backdrop.steps.split import split as step
    from backdrop.tracking.webhook import failure_sent

    earlier = plan_paths(before.path) if before else []
    first = earlier[0] if earlier else None
    rule = Rule(folds, holdout, as_choice("by", by, By), seed, view or None)
    with failure_sent("split"):
        record = step(data, plan.path, rule, objects or None, extend, first)
    plan.metadata["data"] = record.data
    pass_on(earlier, plan.path, plans.path)
