"""`predict` as a component: one share of the photographs."""

from kfp import dsl

from backdrop.components.image import component


@component
def predict(
    plan: dsl.Input[dsl.Artifact],
    number: int,
    format: str,  # noqa: A002  # named as the command's option
    background: str,
    crop: float,
    type: str,  # noqa: A002  # named as the command's option
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Predicts a share, unless its output is whole, and returns the address of its results.

    A photograph that fails doesn't fail the task: `metrics` counts it.
    """
    from pathlib import Path

    from backdrop.common.watch import watched
    from backdrop.config.explain import as_choice
    from backdrop.steps.predict import Format, find_record
    from backdrop.steps.predict import predict as step
    from backdrop.steps.shard import ShardPlan, options_of
    from backdrop.tracking.webhook import failure_sent

    shares = ShardPlan.model_validate_json(Path(plan.path).read_bytes())
    out, chosen = shares.address(number), as_choice("format", format, Format)
    with failure_sent("predict"):
        options = options_of(background, crop, type)
        record = find_record(out) or watched(
            "predict", lambda: step(shares.share(number), out, (), shares.model, None, chosen, None, options)
        )
    metrics.metadata.update(images=record.images, failed=record.failed)
    return out
