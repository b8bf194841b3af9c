"""`merge` as a component."""

from kfp import dsl

from backdrop.components.image import cpu_component


@cpu_component
def merge(
    plan: dsl.Input[dsl.Artifact],
    parts: list[str],
    out: str,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Puts the shares' results together at `out`, which it returns."""
    from pathlib import Path

    from backdrop.steps.merge import merge as step
    from backdrop.steps.shard import ShardPlan
    from backdrop.tracking.webhook import failure_sent

    shares = ShardPlan.model_validate_json(Path(plan.path).read_bytes())
    with failure_sent("merge"):
        record = step(parts, out, shares.versions)
    metrics.metadata.update(images=record.images, new=record.new, failed=record.failed)
    return out
