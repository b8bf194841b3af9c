"""`evaluate` as a component."""

from kfp import dsl

from backdrop.components.image import component


@component
def evaluate(
    data: str,
    config: dsl.Input[dsl.Artifact],
    plans: dsl.Input[dsl.Dataset],
    members: list[str],
    tuned: bool,
    name: str,
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    doubts: dsl.Output[dsl.ClassificationMetrics],
) -> list:
    """Scores the members and their ensemble, writes the report, and hands the members' addresses on.

    `config` is its YAML; `tuned` says whether the members have schedules of their own. The champion of model `name` is
    judged, too, so that `promote` needs no GPU. `doubts` has the ROC curve of the predicted Dice as a detector of the
    worst masks.
    """
    from pathlib import Path

    from backdrop.common.watch import watched
    from backdrop.components.pages import detector_curve, ensemble_file, evaluation_figures, evaluation_page
    from backdrop.components.plans import plan_paths
    from backdrop.steps.evaluate import evaluate as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("evaluate"), ensemble_file(config.path, tuned, members) as path:
        paths = plan_paths(plans.path)
        evaluation = watched("evaluate", lambda: step(data, paths, members, report.path, path, name))
    metrics.metadata.update(evaluation_figures(evaluation))
    if curve := detector_curve(evaluation):
        doubts.log_roc_curve(*curve)
    Path(summary.path).write_text(evaluation_page(evaluation), encoding="utf-8")
    Path(page.path).write_bytes(Path(report.path, "index.html").read_bytes())
    return members
