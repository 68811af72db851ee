"""What a tracking server shows of a whole sweep: metrics and a description. Pure functions, whose callers talk to the server."""

from analysis.reading.names import short_name
from analysis.report.results import Results
from analysis.report.summary import findings
from analysis.tables.benchmark import BenchmarkTable, Row
from analysis.tables.render import to_markdown

MOST_CHARACTERS = 4900
"""Most characters of a description. Every MLflow server keeps so many."""


def sweep_metrics(table: BenchmarkTable) -> dict[str, float]:
    """Return the sweep's metrics as fractions: for complete rows `average/<method>`, `average_std/<method>`; `score/<method>/<task>`."""
    metrics: dict[str, float] = {}
    for row in table.rows:
        name = _metric_name(row)
        if row.is_complete and row.average is not None:
            metrics[f"average/{name}"] = row.average
            if row.average_std is not None:
                metrics[f"average_std/{name}"] = row.average_std
        metrics |= {f"score/{name}/{short_name(cell.target)}": mean for cell in row.cells if (mean := cell.mean) is not None}
    return metrics


def sweep_description(results: Results) -> str:
    """Return Markdown for the sweep's run: the findings, and as much of the table as fits."""
    backbones = ", ".join(results.table.backbones)
    about = f"`{results.sweep.file or results.sweep.name}`, benchmark {results.table.benchmark}, backbone {backbones}"
    head = f"### Sweep {results.sweep.name}\n\n{about}.\n"
    text = "\n".join([head, *(f"- {line}" for line in findings(results)), ""])
    where = "\nTables and plots are among this run's artifacts, under `report`; each job is a child run.\n"
    table = "\n" + to_markdown(results.main).split("\n\n- ")[0] + "\n"
    return text + (table if len(text + where + table) <= MOST_CHARACTERS else "") + where


def _metric_name(row: Row) -> str:
    """Return the method's key and its variant, in characters that MLflow allows in a metric's name."""
    variant = "".join(letter if letter.isalnum() or letter in "_.- " else "_" for letter in row.variant)
    return f"{row.method} {variant}".strip()
