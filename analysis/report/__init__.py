"""Tables and plots to a page, and to MLflow."""

from analysis.report.report import write_report

__all__ = ["write_report"]
