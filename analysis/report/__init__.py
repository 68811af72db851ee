"""Turn tables and plots into a page, and show them in MLflow."""

from analysis.report.report import write_report

__all__ = ["write_report"]
