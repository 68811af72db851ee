"""One folder that shows a sweep: a page that works from disk, with every table and plot as a file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from analysis.errors import ResultsError
from analysis.published import published_scores
from analysis.reading.load import StoredSweep, read_sweep
from analysis.reading.names import facts_of
from analysis.reading.selection import Rule, check_rule
from scalearn.files.json_files import decode

PAGE, SUMMARY = "index.html", "summary.json"


def write_report(store: str | Path, sweep: str, to: str | Path, *, rule: Rule = "validation", against: str | None = None) -> Path:
    """Write a sweep's report.

    Args:
        store: Root of the store that the sweep was run into.
        sweep: Name of the sweep.
        to: Folder to write. Files of an earlier report are overwritten one by one, or left alone if nothing has changed since.
        rule: How learning rates are chosen, as for `analysis.benchmark_table`.
        against: `paper` to show published scores beside the sweep's own.

    Returns:
        Path of the page, `<to>/index.html`. Beside it are `tables/` (Markdown, CSV, LaTeX, HTML), `plots/` (PNG, SVG) and `summary.json`
        (the averages as fractions, and the findings in Markdown).

    Raises:
        ResultsError: There is nothing to report, or the folder cannot be written.
    """
    return write_report_of(read_sweep(store, sweep), Path(to), rule=check_rule(rule), against=against)


def write_report_of(stored: StoredSweep, folder: Path, *, rule: Rule = "validation", against: str | None = None) -> Path:
    """Do as `write_report`, for a sweep that was read already."""
    mark = _mark(stored, rule, against)
    if read_summary(folder).get("mark") == mark and (folder / PAGE).exists():
        return folder / PAGE
    if against == "paper" and stored.info.benchmark is not None:
        published_scores(stored.info.benchmark)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after minutes of work
    except OSError as error:
        raise _unwritable(folder, error) from error
    # Imported here: libraries for drawing take seconds to import, saved if nothing has changed.
    from analysis.report.mlflow_sweep import sweep_description, sweep_metrics
    from analysis.report.page import render_page
    from analysis.report.results import gather, write_plots, write_tables

    results = gather(stored, rule=rule, against=against)
    try:
        # While files are replaced, the folder must not look like a whole report.
        (folder / SUMMARY).unlink(missing_ok=True)
        write_tables(results, folder / "tables")
        light = write_plots(results, folder / "plots")
        dark = {plot.name: plot.render("svg", "dark") for plot in results.plots}
        (folder / PAGE).write_text(render_page(results, stored.folder, light, dark), encoding="utf-8")
        chosen = sorted(set(results.frame.loc[results.frame["chosen"], "node"]))
        about = {"metrics": sweep_metrics(results.table), "description": sweep_description(results), "chosen": chosen}
        summary = {"mark": mark, **about}
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder / PAGE


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a whole report: `mark`, `metrics`, `description`, and the jobs of the table, `chosen`. Empty: there is none."""
    try:
        return decode((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return {}


def _mark(stored: StoredSweep, rule: Rule, against: str | None) -> str:
    """Return a mark of what the report is made from: the sweep, the progress of each job, the options, and the code that draws it."""
    info = stored.info
    facts = (info.yaml, info.overrides, info.targets, info.methods, info.tracking_uri, info.experiment_id, facts_of(stored.records))
    digest = hashlib.sha256(repr((stored.store, rule, against, facts)).encode())
    for record in stored.records:
        digest.update(repr((record.node, record.state, record.error, record.started, record.finished)).encode())
        if record.state == "running":
            digest.update(stored.folder.read(f"{record.node}/history.jsonl") or b"")
    for module in sorted(Path(__file__).parents[1].glob("**/*.*")):
        if module.suffix in (".py", ".j2", ".css", ".js", ".csv"):
            digest.update(module.read_bytes())
    return digest.hexdigest()


def _unwritable(folder: Path, error: OSError) -> ResultsError:
    return ResultsError(f"The report cannot be written to {folder} ({error.strerror or error}); name another folder.")
