"""Reports on evaluations and schedule searches, each a single self-contained HTML page."""

from backdrop.report.page import MemberSummary, Report, WorstImage, choose_worst, exit_text, prediction_text, render
from backdrop.report.search import render_search
from backdrop.report.verdict import Standing, with_verdict

__all__ = [
    "MemberSummary",
    "Report",
    "Standing",
    "WorstImage",
    "choose_worst",
    "exit_text",
    "prediction_text",
    "render",
    "render_search",
    "with_verdict",
]
