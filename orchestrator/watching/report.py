"""The end of a run: the table on the terminal, and the report in a folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from orchestrator.artifacts.store import Store
from scalearn.errors import UserError
from scalearn.secrets import first_line

if TYPE_CHECKING:
    from analysis import BenchmarkTable
    from analysis.tables.grid import Grid


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
    chosen: Sequence[str] = ()
    """The jobs that the sweep's table shows."""
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


def write_report(
    store: Store, sweep: str, folder: Path | None = None, *, rule: str = "validation", against: str | None = None
) -> tuple[Path, "Grid"]:
    """Write a sweep's report by the user's own rule. Return its page, and its table as it is shown.

    Args:
        store: The store.
        sweep: Name of a sweep that was run into the store.
        folder: The folder to write. None: the folder of `report_folder`, but another one than the run's where the rule is another.
        rule: How learning rates are chosen: `validation`, or a number: fixed at that.
        against: `paper`: set the published scores beside one's own.

    Raises:
        UserError: There is no such sweep, nothing to report, nothing published for its benchmark, or the folder cannot be written.
    """
    with one_sentence():
        import analysis
        from analysis.published import published_scores
        from analysis.reading.load import read_sweep
        from analysis.reading.selection import check_rule
        from analysis.report.report import write_report_of
        from analysis.tables.grid import layout

        chosen = check_rule(rule)
        # A report with its own options must not replace the report that `run` keeps up to date.
        variant = "-".join(filter(None, [against and f"against-{against}", "" if chosen == "validation" else f"lr{chosen:g}"]))
        stored = read_sweep(store.url, sweep)
        page = write_report_of(stored, folder or report_folder(store, sweep, variant), rule=chosen, against=against)
        table = analysis.benchmark_table(stored.frame, chosen)
        return page, layout(table, against=published_scores(table.benchmark) if against else None)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn errors about results that the user can mend into the errors that the command line prints in one line."""
    from analysis.errors import ResultsError  # it loads pandas, most of a second that other commands save

    try:
        yield
    except ResultsError as error:
        raise UserError(str(error)) from error


def _write_table(table: "BenchmarkTable", folder: Path) -> None:
    from analysis.tables.render import to_csv, to_markdown

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.csv").write_text(to_csv(table), encoding="utf-8")
    (folder / "benchmark.md").write_text(to_markdown(table), encoding="utf-8")
