"""The other tables beside the benchmark table, as grids: learning rates, differences, ranks, coefficients, jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.reading.names import short_name
from analysis.reading.selection import BEFOREHAND
from analysis.tables import statistics
from analysis.tables.benchmark import BenchmarkTable
from analysis.tables.grid import Grid, GridCell, GridRow, count, percent
from analysis.tables.omega import OmegaSummary, summary_frame


def learning_rate_grid(table: BenchmarkTable) -> Grid | None:
    """Return the learning rate of each cell, with its mean validation score and how many were tried."""
    rows = []
    for row in table.rows:
        cells = [GridCell(row.title)]
        for cell in row.cells:
            text = "–" if cell.learning_rate is None else f"{cell.learning_rate:g}"
            chosen = f"{cell.tuned}; " if cell.tuned else ""
            extra = "" if cell.validation is None else f"{chosen}validation {percent(cell.validation)}, best of {cell.tried}"
            cells.append(GridCell(text, sort=cell.learning_rate, extra=extra))
        rows.append(GridRow("", tuple(cells)))
    width = len(table.targets)
    header = ("Method", *table.target_titles)
    return Grid("Learning rates behind the table", header, ("",) * (width + 1), tuple(rows), (), (), (False, *[True] * width))


def difference_grid(differences: pd.DataFrame, table: BenchmarkTable) -> Grid | None:
    """Return differences in percentage points, with intervals and corrected p values."""
    if differences.empty:
        return None
    titles = dict(zip(table.targets, table.target_titles, strict=True)) | {"average": "Average"}
    rows = []
    for entry in differences.to_dict("records"):
        low, high = entry["low"], entry["high"]
        interval = "–" if pd.isna(low) else f"{signed(low)} to {signed(high)}"
        cells = (
            GridCell(str(entry["first"])),
            GridCell(titles[str(entry["target"])]),
            GridCell(signed(entry["difference"]), sort=float(entry["difference"])),
            GridCell(interval, sort=None if pd.isna(low) else float(low)),
            GridCell(f"{entry['n']} {'pairs' if entry['paired'] else 'each'}", sort=float(entry["n"])),
            GridCell(p_text(entry["p"]), sort=None if pd.isna(entry["p"]) else float(entry["p"])),
            GridCell(p_text(entry["p_holm"]), sort=None if pd.isna(entry["p_holm"]) else float(entry["p_holm"])),
        )
        rows.append(GridRow("", cells))
    header = ("Method", "Target", "Difference", "95% interval", "Seeds", "p", "p (Holm)")
    notes = (
        "Percentage points, method minus reference. Interval: percentile bootstrap over seeds. p: paired t test over shared seeds, "
        "otherwise Welch's; Holm's correction over the targets of a method.",
        "With few seeds the intervals are too narrow and the tests have little power.",
    )
    references = differences["second"].unique()
    reference = references[0] if len(references) == 1 else "the reference of the same backbone"
    return Grid(f"Differences to {reference}", header, ("",) * 7, tuple(rows), (), notes, (False, False, *[True] * 5))


def comparison_grid(table: BenchmarkTable, reference: str) -> Grid | None:
    """Return wins, ties and losses over targets, and the probability that a random seed beats the reference."""
    counts = statistics.win_tie_loss(table, reference)
    chances = statistics.superiority(table, reference)
    average = chances[chances["target"] == "average"].set_index("first")["probability"]
    rows = []
    for entry in counts.to_dict("records"):
        if entry["win"] + entry["tie"] + entry["loss"] == 0:
            continue
        chance = average.get(entry["first"])
        numbers = [GridCell(str(entry[name]), sort=float(entry[name])) for name in ("win", "tie", "loss")]
        shown = GridCell("–" if chance is None else f"{chance:.2f}", sort=None if chance is None else float(chance))
        rows.append(GridRow("", (GridCell(str(entry["first"])), *numbers, shown)))
    notes = ("Targets on which the mean is above, equal to or below the reference's; probability that a random seed beats one of it.",)
    header = ("Method", "Wins", "Ties", "Losses", "Superiority")
    return Grid(f"Against {reference}", header, ("",) * 5, tuple(rows), (), notes, (False, *[True] * 4))


def rank_grid(ranks: statistics.Ranks | None) -> Grid | None:
    """Return average ranks, with the critical difference in the notes."""
    if ranks is None:
        return None
    rows = tuple(GridRow("", (GridCell(title), GridCell(f"{rank:.2f}", sort=rank))) for title, rank in ranks.average)
    p = "" if ranks.friedman_p is None else f" Friedman's test: p = {p_text(ranks.friedman_p)}."
    difference = f"Critical difference (Nemenyi, {ranks.alpha:g}): {ranks.critical_difference:.2f}."
    note = f"Over {ranks.targets} targets; complete rows only. {difference}{p}"
    return Grid("Average ranks", ("Method", "Rank"), ("", ""), rows, (), (note,), (False, True))


def omega_grid(summaries: Sequence[OmegaSummary]) -> Grid | None:
    """Return the numbers of the omega analysis: a row per method and target."""
    if not summaries:
        return None
    rows = []
    for summary, entry in zip(summaries, summary_frame(summaries).to_dict("records"), strict=True):
        numbers = (entry["own_rank"], entry["sum"], entry["effective_sources"])
        shares = (entry["other_share"], entry["negative"], entry["near_zero"])
        cells = [GridCell(summary.title), GridCell(summary.task_title), GridCell(str(entry["top_source"]))]
        cells += [_number(value, digits) for value, digits in zip(numbers, (0, 2, 1), strict=True)]
        cells += [GridCell(f"{share:.0%}", sort=float(share)) for share in shares]
        cells += [_number(entry["stability"], 2)]
        rows.append(GridRow("", tuple(cells)))
    shares_of = ("Other tasks", "Negative", "Near zero")
    header = ("Method", "Target", "Top source", "Own rank", "Sum", "Effective sources", *shares_of, "Stability")
    notes = (
        "Own rank: place of the target's own source by mean coefficient. Sum: over sources; by default it starts at 2. "
        "Effective sources: inverse Simpson index of mean |omega|. Other tasks: share of |omega| on other sources than the target's own. "
        "Near zero: below a tenth of the start. Stability: mean rank correlation of the sources between seeds.",
    )
    return Grid("Learned coefficients", header, ("",) * 10, tuple(rows), (), notes, (*[False] * 3, *[True] * 7))


def job_grid(frame: pd.DataFrame) -> Grid:
    """Return every job with its state, primary test score and time."""
    nodes = frame.drop_duplicates("node")
    primary = frame[frame["primary"].fillna(False).astype(bool) & (frame["split"] == "test")]
    scores = primary.groupby("node")["value"].mean()
    tasks = frame.groupby("node")["task"].nunique()
    rows = []
    for job in nodes.to_dict("records"):
        score = scores.get(job["node"])
        trains = job["stage"] not in BEFOREHAND and not pd.isna(job["learning_rate"])
        cells = (
            GridCell(str(job["method"])),
            GridCell(short_name(str(job["task"])) if tasks[job["node"]] < 2 else f"{tasks[job['node']]} tasks"),
            GridCell(str(job["stage"])),
            _number(job["seed"], 0),
            GridCell(f"{job['learning_rate']:g}" if trains else "–", sort=_sort(job["learning_rate"]) if trains else None),
            GridCell(str(job["state"])),
            GridCell(percent(None if score is None else float(score)), sort=_sort(score)),
            _number(job["train_seconds"], 1),
            GridCell(str(job["node"]), jobs=(str(job["node"]),)),
        )
        rows.append(GridRow("", cells))
    header = ("Method", "Task", "Stage", "Seed", "Learning rate", "State", "Test score", "Seconds", "Job")
    numeric = (*[False] * 3, True, True, False, True, True, False)
    return Grid(f"{count(len(rows))} jobs", header, ("",) * 9, tuple(rows), (), (), numeric)


def signed(fraction: float) -> str:
    """Return a fraction in percentage points with a sign: `+1.23` for `0.0123`, with a proper minus sign."""
    text = f"{100 * fraction:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def p_text(p: float | None) -> str:
    """Return a p value in three digits, or a dash for None."""
    if p is None or pd.isna(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(value: Any, digits: int) -> GridCell:
    missing = value is None or pd.isna(value)
    return GridCell("–" if missing else f"{float(value):.{digits}f}".replace("-", "−"), sort=None if missing else float(value))


def _sort(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def estimate_cells(row: Mapping[Any, Any], value: str) -> tuple[GridCell, ...]:
    """Return the cells of a paired difference: in points, its interval, how many seeds, Holm's p, and the verdict.

    Args:
        row: `low`, `high`, `n`, `p_holm`, `verdict`, and the difference.
        value: Name of the difference.
    """
    low, p = row["low"], row["p_holm"]
    return (
        GridCell(signed(row[value]), sort=float(row[value])),
        GridCell("–" if pd.isna(low) else f"{signed(low)} to {signed(row['high'])}"),
        GridCell(str(row["n"]), sort=float(row["n"])),
        GridCell(p_text(p), sort=None if pd.isna(p) else float(p)),
        GridCell(str(row["verdict"])),
    )
