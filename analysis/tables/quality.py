"""Sources of unequal quality: does omega fall with it, and which method suffers least?"""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.reading.names import Names
from analysis.tables.grid import Grid, GridCell, GridRow
from analysis.tables.grids import signed
from analysis.tables.omega import Omega
from analysis.tables.stacks import Estimate, by_seed, certain, interval, paired, points

WHOLE = "whole"
_QUALITY = re.compile(r"(\S+) ((?:rows_kept|labels_shuffled)=\S+?)(?:, |$)")


def dealt(quality: str) -> dict[str, str]:
    """Return what the sources of a stack were trained on, by name: `{"cola": "rows_kept=0.05"}`. Whole ones are left out.

    Args:
        quality: As in the frame's column `source_quality`.
    """
    return dict(_QUALITY.findall(quality))


def spoilt(scores: pd.DataFrame) -> dict[str, list[str]]:
    """Return the sources of each node that were trained on shuffled labels alone."""
    empty = {
        str(node): [name for name, what in dealt(str(quality)).items() if what == "labels_shuffled=1"]
        for node, quality in zip(scores["node"], scores["quality"], strict=True)
    }
    return {node: names for node, names in empty.items() if names}


def quality_title(quality: str) -> str:
    """Return a quality in words: `5% of the rows`, `20% of the labels shuffled`."""
    name, _, share = quality.partition("=")
    if quality == WHOLE:
        return "all rows as they are"
    percent = f"{100 * float(share):g}% of the"
    return f"{percent} rows" if name == "rows_kept" else f"{percent} labels shuffled"


def order(quality: str) -> tuple[int, float]:
    """Return a sort key: the whole task, then fewer and fewer rows, then more and more shuffled labels."""
    name, _, share = quality.partition("=")
    return (0, 0.0) if quality == WHOLE else (1, -float(share)) if name == "rows_kept" else (2, float(share))


def losses(scores: pd.DataFrame, names: Names) -> pd.DataFrame:
    """Return what unequal sources cost each method: the mean over its deals minus the stack of whole sources, paired by seed.

    Returns:
        Columns title, task (or `average`, over the targets that have both), estimate. The average has the method's first row.
    """
    rows: list[dict[str, Any]] = []
    for (method, variant), part in scores.groupby(["method", "variant"], sort=False):
        title = names.method_title(str(method)) + (f" ({variant})" if variant else "")
        pairs = {}
        for task, cell in part.groupby("task", sort=False):
            poor = cell[cell["quality"] != ""]
            whole = cell[(cell["quality"] == "") & cell["sources"].isin(set(poor["sources"]))]
            if len(poor) and len(whole):
                pairs[str(task)] = (by_seed(poor), by_seed(whole))
        if pairs:
            poor_mean, whole_mean = (pd.concat([pair[end] for pair in pairs.values()], axis=1).dropna().mean(axis=1) for end in (0, 1))
            both = {"average": (poor_mean, whole_mean), **pairs}
            found = {task: paired(one, two) for task, (one, two) in both.items()}
            rows += [{"title": title, "task": task, "estimate": each} for task, each in found.items() if each is not None]
    return pd.DataFrame(rows, columns=["title", "task", "estimate"])


def omega_by_quality(scores: pd.DataFrame, omegas: Sequence[Omega]) -> pd.DataFrame:
    """Return the mean omega of sources of each quality, and its difference from that of the same sources when whole.

    A difference compares a source with itself within a target and seed; the mean over sources and targets is one value per seed.

    Returns:
        Columns title (of the method), quality, omega (mean), difference (an `Estimate` over seeds; None for the whole).
    """
    labels = dict(zip(scores["node"], scores["quality"], strict=True))
    rows = []
    for omega in omegas:
        if omega.node in labels:
            poor = dealt(str(labels[omega.node]))
            for source, value in zip(omega.sources, omega.by_source, strict=True):
                quality = poor.get(source, WHOLE)
                title = omega.names.method_title(omega.method)
                rows.append((title, omega.task, omega.seed, source, quality, float(value), bool(poor)))
    frame = pd.DataFrame(rows, columns=["title", "task", "seed", "source", "quality", "omega", "unequal"])
    frame = frame[frame["unequal"]]  # within stacks that hold other qualities too, since omegas share the weight of a stack
    found = []
    for name, part in frame.groupby("title", sort=False):
        cells = part.groupby(["task", "seed", "source", "quality"])["omega"].mean().unstack("quality")
        for quality in sorted(cells.columns, key=order):
            change = None
            if quality != WHOLE and WHOLE in cells:
                differences = (cells[quality] - cells[WHOLE]).dropna().groupby("seed").mean()
                change = paired(differences, 0 * differences)
            found.append((str(name), quality, float(cells[quality].mean()), change))
    return pd.DataFrame(found, columns=["title", "quality", "omega", "difference"])


def sentences(lost: pd.DataFrame, by_quality: pd.DataFrame, names: Names) -> list[str]:
    """Return what unequal sources cost, and whether omega sees them, with numbers."""
    lines = []
    average = sorted(lost[lost["task"] == "average"].to_dict("records"), key=lambda row: -row["estimate"].mean)
    if average:
        told = [f"{row['title']} {points(row['estimate'])}" for row in average]
        sure = any(certain(row["estimate"]) for row in average)
        end = "" if sure else " No interval excludes zero: that is too little to tell whether poor sources do harm."
        lead = "The method that suffers least from poor sources comes first" if len(told) > 1 else "What poor sources cost"
        lines.append(f"{lead}: {'; '.join(told)}.{end}")
    for title, part in by_quality.groupby("title", sort=False):
        whole = part.loc[part["quality"] == WHOLE, "omega"]
        changes = [
            f"{_signed(row['difference'])} with {quality_title(row['quality'])} ({_interval(row['difference'])})"
            for row in part.to_dict("records")
            if row["difference"] is not None
        ]
        if changes and len(whole):
            falls = [row for row in part["difference"] if row is not None and certain(row) and row.mean < 0]
            verdict = f"falls certainly for {len(falls)} of {len(changes)} qualities"
            lines.append(f"**{title}**: the mean omega of a whole source is {whole.iloc[0]:.3f}; {', '.join(changes)}: it {verdict}.")
    return lines


def quality_grid(lost: pd.DataFrame, names: Names) -> Grid:
    """Return what unequal sources cost each method on each target, as a table."""
    rows = []
    for row in lost.to_dict("records"):
        each: Estimate = row["estimate"]
        target = "Average" if row["task"] == "average" else names.task_title(str(row["task"]))
        ends = "–" if each.low is None or each.high is None else f"{signed(each.low)} to {signed(each.high)}"
        cells = (GridCell(target), GridCell(signed(each.mean), sort=each.mean), GridCell(ends), GridCell(str(each.n), sort=float(each.n)))
        rows.append(GridRow(str(row["title"]), cells))
    notes = ("Percentage points, mean over the deals minus the stack of whole sources, paired by seed. Student's interval.",)
    header = ("Target", "Change", "95% interval", "Seeds")
    return Grid("Cost of poor sources", header, ("",) * 4, tuple(rows), (), notes, (False, True, True, True))


def _signed(each: Estimate) -> str:
    return f"{each.mean:+.3f}".replace("-", "−")


def _interval(each: Estimate) -> str:
    if each.low is None or each.high is None:
        return interval(each)
    return f"95% interval {each.low:+.3f} to {each.high:+.3f}, {each.n} seeds".replace("-", "−")
