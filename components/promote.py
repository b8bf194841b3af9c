"""`promote` as a component."""

from kfp import dsl

from backdrop.components.image import cpu_component


@cpu_component
def promote(
    data: str,
    name: str,
    report: dsl.Input[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Lets the gate decide whether the challenger becomes the champion, and returns the outcome.

    It runs no networks: `evaluate` has judged the champion, too. If there is another one by now, it stays.
    """
    from pathlib import Path

    from backdrop.components.pages import verdict_figures, verdict_page
    from backdrop.report import with_verdict
    from backdrop.steps.promote import promote as step
    from backdrop.tracking.webhook import failure_sent

    with failure_sent("promote"):
        decision = step(data, name, predict=False)
    metrics.metadata.update(verdict_figures(decision))
    summary.metadata.update(outcome=decision.outcome, summary=decision.summary, reasons=list(decision.reasons))
    Path(summary.path).write_text(verdict_page(decision, decision.standing), encoding="utf-8")
    html = Path(report.path, "index.html").read_text(encoding="utf-8")
    Path(page.path).write_text(with_verdict(html, decision, decision.standing), encoding="utf-8")
    return decision.outcome
