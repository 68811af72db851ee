"""The page of a report: one HTML file that contains its style, script and pictures."""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.plots import Plot
from analysis.reading.files import Folder
from analysis.reading.names import short_name
from analysis.reading.records import Record
from analysis.report.job_details import detailed, job_details
from analysis.report.questions import Question
from analysis.report.results import Results
from analysis.report.summary import findings, omega_findings
from analysis.tables.grid import Grid, printable, printable_lines
from analysis.tables.render import to_html
from scalearn.secrets import without_secrets

MOST_JOBS = 1000
"""The most rows of the page's table of jobs. The file `tables/jobs.csv` has all jobs."""
WIDE_PLOT = 540
"""Plots wider than this, in points, take the page's whole width."""
SHOWN_PACKAGES = ("torch", "transformers", "adapters", "accelerate", "datasets", "ray", "mlflow", "numpy")


def render_page(results: Results, folder: Folder, light: Mapping[str, bytes], dark: Mapping[str, bytes]) -> str:
    """Return the page, with style, script and pictures (SVGs by the plot's name) in it.

    Args:
        results: What it shows.
        folder: The store, with the jobs' logs.
        light: Each plot as SVG for a light page.
        dark: Each plot as SVG for a dark page.
    """
    loader = PackageLoader("analysis.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True)
    jobs = results.tables.get("jobs")
    places = detailed(results.records, [node for row in results.table.rows for cell in row.cells for node in cell.jobs])
    asked = {question.name for question in results.questions}
    side = {name: Markup(to_html(grid)) for name, grid in results.tables.items() if name != "jobs" and name not in asked}
    pictures = {plot.name: _embedded(plot, light[plot.name], dark[plot.name]) for plot in results.plots}
    questions = [_answered(question, pictures) for question in results.questions]
    return environment.get_template("report.html.j2").render(
        sweep=results.sweep,
        backbones=", ".join(results.table.backbones),
        benchmark=results.table.benchmark,
        states=results.states,
        total=len(results.records),
        findings=[_inline(line) for line in findings(results)],
        omega_findings=[_inline(line) for line in omega_findings(results)],
        main=Markup(to_html(results.main, places)),
        filters=_filters(results),
        side=side,
        questions=questions,
        plots=list(pictures.values()),
        failures=[_failure(record) for record in results.failures],
        blocked=[record for record in results.records if record.state == "blocked"],
        jobs=Markup(to_html(_first_rows(jobs), places)) if jobs else "",
        details=Markup(job_details(folder, results.sweep, results.records, results.history, places)),
        hidden_jobs=max(0, len(jobs.rows) - MOST_JOBS) if jobs else 0,
        provenance=provenance(results),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _filters(results: Results) -> dict[str, dict[str, list[str]]]:
    """Return what the page's tables can be filtered by: for methods and targets, each title with all the names that tables use for it."""
    methods: dict[str, list[str]] = {}
    for row in results.table.rows:
        title = row.title.removesuffix(f" ({row.variant})")
        methods.setdefault(printable(title), [row.method]).append(printable(row.title))
    titles, targets = map(printable, results.table.target_titles), results.table.targets
    return {
        "method": methods,
        "target": {title: [title, target, short_name(target)] for title, target in zip(titles, targets, strict=True)},
    }


def provenance(results: Results) -> list[tuple[str, str]]:
    """Return the origin of the numbers as pairs (what, value). If jobs differ in a value, all values are given, with counts."""
    records = [record for record in results.records if record.provenance or record.result]
    packages: dict[str, list[Any]] = {name: [] for name in SHOWN_PACKAGES}
    for record in records:
        for name in SHOWN_PACKAGES:
            packages[name].append((record.provenance.get("packages") or {}).get(name))
    facts = [
        ("Sweep file", results.sweep.file or ""),
        ("Overrides", ", ".join(results.sweep.overrides)),
        ("Created", results.sweep.created or ""),
        ("Store", results.store),
        ("Tracking", results.sweep.tracking_uri or ""),
        ("Commit", _tally(record.provenance.get("git_commit") or record.provenance.get("git") for record in records)),
        ("Command", _tally(_command(record) for record in records)),
        ("Machines", _tally(record.provenance.get("host") for record in records)),
        ("Devices", _tally(record.result.get("device") for record in records)),
        ("Precision", _tally(record.result.get("precision") for record in records)),
        ("Backbone", _tally(record.config.get("backbone_origin") for record in records)),
        ("Data", _tally(entry.get("origin") for record in records for entry in record.config.get("data") or ())),
        ("Packages", ", ".join(f"{name} {versions}" for name in SHOWN_PACKAGES if (versions := _tally(packages[name])))),
    ]
    return [(what, without_secrets(value)) for what, value in facts if value]  # records of earlier versions may contain secrets


def _tally(values: Iterable[Any]) -> str:
    """Return the one value that all share, or each value with its count."""
    counts = Counter(str(value) for value in values if value not in (None, ""))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({number})" for value, number in counts.most_common(8)) + (", ..." if len(counts) > 8 else "")


def _command(record: Record) -> str:
    argv = record.provenance.get("argv") or ""
    return " ".join(map(str, argv)) if isinstance(argv, list) else str(argv)


def _failure(record: Record) -> dict[str, Any]:
    return {"node": record.node, "error": record.error, "attempts": record.attempts, "traceback": f"{record.node}/traceback.txt"}


def _answered(question: Question, pictures: dict[str, Any]) -> dict[str, Any]:
    """Return a question for the template. Its plots stand with it, not with the others."""
    plots = [pictures.pop(plot.name) for plot in question.plots]
    sentences = [_inline(line) for line in question.sentences]
    return {
        "name": question.name,
        "title": question.title,
        "sentences": sentences,
        "plots": plots,
        "table": Markup(to_html(question.table)),
    }


def _embedded(plot: Plot, light: bytes, dark: bytes) -> dict[str, Any]:
    """Return a plot as two data URLs, for a light and a dark page."""
    urls = {name: "data:image/svg+xml;base64," + base64.b64encode(data).decode() for name, data in (("light", light), ("dark", dark))}
    width = re.search(rb'<svg[^>]* width="([\d.]+)', light)
    wide = width is not None and float(width[1]) > WIDE_PLOT
    return {"name": plot.name, "title": plot.title, "caption": plot.caption, "wide": wide, **urls}


def _shown(value: Any) -> Any:
    """Return the printable form of a value in a template. HTML that we made ourselves stays as it is."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _first_rows(grid: Grid) -> Grid:
    return Grid("", grid.header, grid.subheader, grid.rows[:MOST_JOBS], grid.footnotes, grid.notes, grid.numeric)


def _inline(text: str) -> Markup:
    """Return the HTML of the Markdown that our own sentences use: bold and code."""
    safe = str(escape(printable(text)))
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", safe))
