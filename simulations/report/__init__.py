"""The comparison of any runs: what they cost, disclosed and achieved, as one page, its figures and its numbers."""

from simulations.report.page import write_report

__all__ = ["write_report"]
