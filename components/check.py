"""`check` as a component: the pipeline's first task, before any GPU time is used."""

from kfp import dsl

from backdrop.components.image import cpu_component


@cpu_component
def check(
    data: str, ensemble: str, objects: int, faults: dsl.Output[dsl.Markdown], config: dsl.Output[dsl.Artifact]
) -> str:
    """Checks every file of the dataset and returns the dataset's address; an error stops the pipeline.

    `ensemble` is the ensemble's YAML, which is handed on as `config`: a file that its recipes can't use is an error,
    too. `objects` 0 means all.
    """
    import sys
    from pathlib import Path

    from backdrop.components.pages import as_file, check_failure, check_page
    from backdrop.steps.check import check as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("check"), as_file(ensemble) as path:
        report = step(data, [path], objects or None)
        Path(config.path).write_text(ensemble, encoding="utf-8")
        Path(faults.path).write_text(check_page(report), encoding="utf-8")
        if report.errors:
            sys.exit(check_failure(report))
    return data
