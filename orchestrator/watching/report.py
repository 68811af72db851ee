"""The end of a run: the table on the terminal, and the report in a folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from orchestrator.artifacts.store import Store
from scalearn.secrets import first_line

if TYPE_CHECKING:
    from analysis import BenchmarkTable


@dataclass(frozen=True)
class Report:
    """A report on disk."""

    folder: Path
    mark: str = ""
    """Stands for what the report was made from."""
    description: str = ""
    """Markdown for the sweep's run in MLflow."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Averages and scores, as fractions."""
    problem: str | None = None
    """Why there is no page, in one line. None: there is a page."""

    @property
    def page(self) -> Path:
        """The file that a reader opens."""
        return self.folder / "index.html"


def report_folder(store: Store, sweep: str, variant: str = "") -> Path:
    """Return where a sweep's report lies: in the store, or in the working directory where the store is a URL.

    Args:
        store: The store.
        sweep: Name of the sweep.
        variant: Tells this report apart from the report that a run writes.
    """
    home = store.root if store.is_local else Path.cwd()
    name = f"{sweep}-{variant}" if variant else sweep
    return home / "reports" / re.sub(r"[^\w.+-]+", "_", name)


def show_results(store: Store, sweep: str, console: Console, folder: Path | None = None) -> Report:
    """Print a run's table and write its report. If nothing has changed, leave the report as it is.

    Whatever fails with a picture, the tables are written: hours of training must not end in a traceback about a font.

    Args:
        store: The store.
        sweep: Name of a sweep that was run into the store.
        console: Where to print the table, or a line that there is nothing to show yet.
        folder: Where to write the report. None: the folder of `report_folder`.
    """
    import analysis  # it loads pandas, most of a second that `plan` saves
    from analysis.reading.load import read_sweep
    from analysis.report.report import read_summary, write_report_of

    folder = folder or report_folder(store, sweep)
    try:
        stored = read_sweep(store.url, sweep)
        table = analysis.benchmark_table(stored.frame)
    except analysis.ResultsError as error:
        console.print(Text(f"No table yet: {error}", style="yellow"), soft_wrap=True)
        return Report(folder, problem=f"No report: {error}")
    analysis.render.to_terminal(table, console)
    try:
        write_report_of(stored, folder)
    except analysis.ResultsError as error:
        return Report(folder, problem=f"No report: {error}")
    except Exception as error:
        _write_table(table, folder / "tables")
        cause = f"{type(error).__name__}: {first_line(error)}"
        return Report(folder, problem=f"The report could not be drawn ({cause}); its table is in {folder / 'tables'}.")
    return Report(folder, **read_summary(folder))


def _write_table(table: "BenchmarkTable", folder: Path) -> None:
    from analysis.tables.render import to_csv, to_markdown

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.csv").write_text(to_csv(table), encoding="utf-8")
    (folder / "benchmark.md").write_text(to_markdown(table), encoding="utf-8")
