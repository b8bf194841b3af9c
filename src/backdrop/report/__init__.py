"""The report of an evaluation: one page that carries everything with it, and the pictures on it."""

from backdrop.report.page import MemberSummary, Report, WorstImage, choose_worst, render
from backdrop.report.verdict import with_verdict

__all__ = ["MemberSummary", "Report", "WorstImage", "choose_worst", "render", "with_verdict"]
