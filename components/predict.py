"""`predict` as a component."""

from kfp import dsl

from backdrop.components.image import component


@component
def predict(
    images: str,
    out: str,
    members: list[str],
    model: str,
    ensemble: str,
    format: str,  # noqa: A002  # the step's parameter
    sample_submission: str,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Cuts out the photographs and returns the address of the masks; empty arguments are ignored.

    `ensemble` is the ensemble's YAML. A photograph that fails doesn't fail the task: `metrics` counts it.
    """
    from contextlib import nullcontext

    from backdrop.common.watch import watched
    from backdrop.components.pages import as_file
    from backdrop.config.explain import as_choice
    from backdrop.steps.predict import Format
    from backdrop.steps.predict import predict as step
    from backdrop.tracking.webhook import failure_sent

    chosen = as_choice("format", format, Format)
    with failure_sent("predict"), as_file(ensemble) if ensemble else nullcontext() as path:
        given = (images, out, members, model or None, path, chosen, sample_submission or None)
        record = watched("predict", lambda: step(*given))
    metrics.metadata.update(images=record.images, failed=record.failed)
    return out
