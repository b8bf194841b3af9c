"""`split` as a component."""

from kfp import dsl

from components.image import component


@component
def split(
    data: str, folds: int, holdout: float, by: str, seed: int, objects: int, extend: str, plan: dsl.Output[dsl.Dataset]
) -> None:
    """Places every object in a fold or in the holdout; `objects` 0 takes all."""
    from backdrop.folds import as_by
    from backdrop.steps.split import split as step

    record = step(data, plan.path, folds, holdout, as_by(by), seed, objects or None, extend)
    plan.metadata["data"] = record.data
