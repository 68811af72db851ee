"""All that a report, a notebook or a tracking server shows of one sweep, computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from analysis import plots
from analysis.plots import Plot
from analysis.published import published_scores
from analysis.reading.history import history_of, spans_of
from analysis.reading.load import StoredSweep
from analysis.reading.names import Names
from analysis.reading.records import Record, SweepInfo
from analysis.reading.selection import Rule
from analysis.report.questions import Question, questions_by_backbone, questions_of_methods
from analysis.tables import statistics
from analysis.tables.backbones import blocks
from analysis.tables.benchmark import BenchmarkTable, benchmark_table
from analysis.tables.grid import Grid, layout
from analysis.tables.grids import comparison_grid, difference_grid, job_grid, learning_rate_grid, omega_grid, rank_grid
from analysis.tables.omega import OmegaSummary, behind, omegas_of, summarise
from analysis.tables.pareto import pareto_grid
from analysis.tables.render import spreadsheet_text, to_csv, to_html, to_latex, to_markdown
from analysis.tables.stacks import stack_scores

VARIED = ("learning_rate", "few_shot", "train_share", "source_count")
"""Columns against which scores are plotted if a sweep varies them."""


@dataclass(frozen=True)
class Results:
    """The results of one sweep."""

    store: str
    sweep: SweepInfo
    records: tuple[Record, ...]
    frame: pd.DataFrame
    history: pd.DataFrame
    """Every evaluation of every job, as `analysis.load_history` returns it."""
    table: BenchmarkTable
    main: Grid
    """The benchmark table as printed, with published scores if they were requested."""
    tables: Mapping[str, Grid]
    """Further tables by file name, in the order of a report."""
    ranks: statistics.Ranks | None
    differences: pd.DataFrame
    omegas: tuple[OmegaSummary, ...]
    plots: tuple[Plot, ...]
    questions: tuple[Question, ...] = ()
    """What the sweep tells about sources and methods. Their tables and plots are among the others too."""
    failures: tuple[Record, ...] = field(default=())
    """Failed jobs."""

    @property
    def states(self) -> dict[str, int]:
        """Number of jobs in each state, in the order of a job's life."""
        states = [record.state for record in self.records]
        return {state: states.count(state) for state in ("succeeded", "running", "pending", "failed", "blocked") if state in states}


def gather(stored: StoredSweep, *, rule: Rule = "validation", against: str | None = None) -> Results:
    """Compute a sweep's tables, statistics and plots.

    Args:
        stored: The sweep.
        rule: As for `analysis.benchmark_table`.
        against: `paper` to show published scores beside the sweep's own.

    Raises:
        ResultsError: Nothing is published for the sweep's benchmark.
    """
    folder, records, frame = stored.folder, stored.records, stored.frame
    table = benchmark_table(frame, rule)
    published = published_scores(table.benchmark) if against == "paper" else None
    reference = statistics.default_reference(table)
    differences = statistics.differences(table, reference)
    ranks = statistics.ranks(table) if len(blocks(table)) == 1 else None  # on several backbones, a question tells
    nodes = [node for row in table.rows for node in row.nodes]
    shown, scores = behind(table), stack_scores(frame)
    learned = omegas_of(folder, records, [*{*shown, *scores["node"]}])
    asked = (*questions_by_backbone(scores, learned, Names.of(frame), frame, records), *questions_of_methods(table))
    omegas = [replace(omega, variant=shown[omega.node]) for omega in learned if omega.node in shown]
    summaries = tuple(summarise(omegas))
    history = history_of(folder, records)
    metrics = ["loss", *dict.fromkeys(metric for metric in table.metrics if metric)]
    drawn = [
        plots.efficiency(table),
        plots.pareto_plot(frame),
        plots.critical_difference(ranks),
        *(plots.score_against(frame, column, rule=rule) for column in VARIED),
        plots.probing_grid(frame),
        *(plot for question in asked for plot in question.plots),
        *plots.omega_heat_maps(omegas),
        *plots.omega_layer_maps(omegas),
        *(plots.learning_curves(history, nodes, metric, table.targets) for metric in metrics),
        plots.gantt(spans_of(folder, records)),
    ]
    tables = {
        "learning_rates": learning_rate_grid(table),
        "differences": difference_grid(differences, table),
        "comparisons": comparison_grid(table, reference),
        "pareto": pareto_grid(frame),
        "ranks": rank_grid(ranks),
        **{question.name: question.table for question in asked},
        "omegas": omega_grid(summaries),
        "jobs": job_grid(frame),
    }
    return Results(
        store=stored.store,
        sweep=stored.info,
        records=tuple(records),
        frame=frame,
        history=history,
        table=table,
        main=layout(table, against=published),
        tables={name: grid for name, grid in tables.items() if grid is not None and grid.rows},
        ranks=ranks,
        differences=differences,
        omegas=summaries,
        plots=tuple(plot for plot in drawn if plot is not None),
        questions=asked,
        failures=tuple(record for record in records if record.state == "failed"),
    )


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write every table as Markdown, CSV, LaTeX and HTML, and the long frame as CSV. Return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    formats: dict[str, Callable[[Grid], str]] = {"md": to_markdown, "csv": to_csv, "html": to_html}
    for name, grid in {"benchmark": results.main, **results.tables}.items():
        texts = {ending: write(grid) for ending, write in formats.items()}
        texts["tex"] = to_latex(grid, label=f"tab:{name}")
        if name == "benchmark":
            texts["csv"] = to_csv(results.table)
        for ending, text in texts.items():
            path = folder / f"{name}.{ending}"
            path.write_text(text, encoding="utf-8")
            paths.append(path)
    frame = results.frame.copy()
    for column in [name for name in frame.columns if frame[name].dtype == "str"]:
        frame[column] = frame[column].map(spreadsheet_text, na_action="ignore")
    frame.to_csv(folder / "frame.csv", index=False)
    return [*paths, folder / "frame.csv"]


def write_plots(results: Results, folder: Path) -> dict[str, bytes]:
    """Write every plot as PNG and SVG, in the light theme. Return the SVGs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {plot.name: plot.save(folder) for plot in results.plots}
