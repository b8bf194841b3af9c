"""Reports on evaluations and schedule searches, each a single self-contained HTML page."""

from backdrop.report.gallery import Gallery
from backdrop.report.page import MemberSummary, Report, exit_text, prediction_text, render
from backdrop.report.search import render_search
from backdrop.report.verdict import Standing, with_verdict

__all__ = [
    "Gallery",
    "MemberSummary",
    "Report",
    "Standing",
    "exit_text",
    "prediction_text",
    "render",
    "render_search",
    "with_verdict",
]
