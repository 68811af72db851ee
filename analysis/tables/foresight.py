"""Could the best sources have been known before training? What transferability jobs said, against the gains that were found."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.reading.names import Names
from analysis.reading.records import Record
from analysis.tables.gains import KINDS, matrices
from analysis.tables.grid import Grid, GridCell, GridRow
from analysis.tables.grids import p_text, signed
from analysis.tables.stacks import mean_correlation, rank_correlation
from analysis.tables.statistics import holm

MEASURES = {"logme": "LogME", "h_score": "H-score", "text": "Likeness of texts", "weights": "Likeness of weights"}
_NEEDS = {"logme": ("features", "logme"), "h_score": ("features", "h_score"), "text": ("text",), "weights": ("weights",)}
"""The seconds of a job that a measure needs."""
TOP = (1, 3)


def ratings(records: Sequence[Record]) -> pd.DataFrame:
    """Return what transferability jobs said of each source.

    Returns:
        Columns task, source, measure, value. Where several jobs rate a source for a target (on other rows or sources), the last counts.
    """
    rows = []
    for record in records:
        for source, measured in _told(record, "measures").items():
            task = str(record.config["data"][0]["task"])
            rows += [(task, source, name, float(value)) for name, value in measured.items() if name in MEASURES and value is not None]
    frame = pd.DataFrame(rows, columns=["task", "source", "measure", "value"])
    return frame.drop_duplicates(["task", "source", "measure"], keep="last")


def seconds(records: Sequence[Record]) -> dict[str, float]:
    """Return the seconds that each measure took for all targets together. The likeness of texts is measured once for all of them."""
    found = dict.fromkeys(MEASURES, 0.0)
    for record in records:
        spent = _told(record, "seconds")
        for name, parts in _NEEDS.items() if spent else ():
            taken = sum(float(spent.get(part) or 0.0) for part in parts)
            found[name] = max(found[name], taken) if name == "text" else found[name] + taken
    return found


def seconds_of_trying(frame: pd.DataFrame, kind: str, method: str) -> float:
    """Return the seconds that the jobs behind a matrix of gains took to train and evaluate."""
    jobs = frame[(frame["method"] == method) & (frame["stage"] == "transfer")].drop_duplicates("node")
    if kind == "single":
        jobs = jobs[jobs["source_count"] == 1]
    return float(jobs["train_seconds"].fillna(0).sum() + jobs["evaluate_seconds"].fillna(0).sum())


def foresight(found: pd.DataFrame, rated: pd.DataFrame) -> pd.DataFrame:
    """Return how well each measure foretells each matrix of gains.

    Regret at k is the largest gain less the largest among the k sources rated highest: what the choice cost, as a fraction of the metric.

    Args:
        found: As `analysis.tables.gains.gains` returns it.
        rated: As `ratings` returns it.

    Returns:
        Columns kind, title, method, measure, task, sources, rho (Spearman), p (by permutation), p_holm (over targets), and for k of 1 and 3
        regret_k and chance_k, its mean over all choices of k sources. A regret is missing where there are no more than k sources.
    """
    rows: list[dict[str, Any]] = []
    for kind, title, pairs in matrices(found):
        for measure in MEASURES:
            lines = [
                {"kind": kind, "title": title, "method": str(pairs["method"].iloc[0]), "measure": measure, **line}
                for task, part in pairs.groupby("task", sort=False)
                if (line := _line(str(task), part, rated[(rated["task"] == task) & (rated["measure"] == measure)])) is not None
            ]
            tested = [line for line in lines if line["p"] is not None]
            for line, p in zip(tested, holm([line["p"] for line in tested]), strict=True):
                line["p_holm"] = p
            rows += lines
    regrets = [f"{name}_{top}" for top in TOP for name in ("regret", "chance")]
    columns = ["kind", "title", "method", "measure", "task", "sources", "rho", "p", "p_holm", *regrets]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(("rho", "p", "p_holm", *regrets), "float64"))


def sentences(told: pd.DataFrame, frame: pd.DataFrame, spent: dict[str, float], names: Names) -> list[str]:
    """Return how well each measure foretells, with its numbers and its cost."""
    lines = []
    for (kind, title, method), part in told.groupby(["kind", "title", "method"], sort=False):
        tried = seconds_of_trying(frame, str(kind), str(method))
        for measure, of in part.groupby("measure", sort=False):
            how = KINDS["single" if kind == "single" else "left out"]
            text = f"**{MEASURES[str(measure)]}** against the gains of {title}, each source {how}: " + _correlation(
                of["rho"].dropna().tolist()
            )
            for top in TOP:
                some = of.dropna(subset=[f"regret_{top}"])
                if len(some):
                    regret, chance = some[f"regret_{top}"].mean(), some[f"chance_{top}"].mean()
                    text += f"; regret at {top} is {_points(regret)} points (by chance {_points(chance)})"
            sure = [names.task_title(str(row["task"])) for row in of.to_dict("records") if row["p_holm"] < 0.05]
            text += f"; certain for {', '.join(sure)} (Holm)" if sure else "; certain for no target (Holm)"
            text += f". It took {spent[str(measure)]:.1f} s, trying {tried:.1f} s." if tried else "."
            lines.append(text)
    return lines


def foresight_grid(told: pd.DataFrame, names: Names) -> Grid:
    """Return every measure and target as a table."""
    rows = []
    for row in told.to_dict("records"):
        kind = KINDS["single" if row["kind"] == "single" else "left out"]
        numbers = [GridCell("–" if pd.isna(row["rho"]) else f"{row['rho']:.2f}".replace("-", "−"), sort=_sort(row["rho"]))]
        numbers.append(GridCell(p_text(row["p_holm"]), sort=_sort(row["p_holm"])))
        numbers += [
            GridCell("–" if pd.isna(row[name]) else _points(row[name]), sort=_sort(row[name]))
            for name in (f"{what}_{top}" for top in TOP for what in ("regret", "chance"))
        ]
        cells = (GridCell(names.task_title(str(row["task"]))), GridCell(MEASURES[row["measure"]]), GridCell(str(row["sources"])), *numbers)
        rows.append(GridRow(f"{row['title']}, each source {kind}", cells))
    header = ("Target", "Measure", "Sources", "Spearman", "p (Holm)", "Regret at 1", "by chance", "Regret at 3", "by chance")
    notes = ("Regret in points: the largest gain less the largest among the sources rated highest. p by permutation.",)
    return Grid("Known beforehand", header, ("",) * 9, tuple(rows), (), notes, (False, False, *[True] * 7))


def _told(record: Record, what: str) -> dict[str, Any]:
    """Return a part of what a transferability job said. It is empty for other jobs, and for what no job would write."""
    told = record.result.get("transferability") if record.state == "succeeded" else None
    part = told.get(what) if isinstance(told, dict) else None
    return part if isinstance(part, dict) else {}


def _line(task: str, pairs: pd.DataFrame, rated: pd.DataFrame) -> dict[str, Any] | None:
    values = dict(zip(rated["source"], rated["value"], strict=True))
    gain = {str(source): float(each) for source, each in zip(pairs["source"], pairs["gain"], strict=True) if source in values}
    if len(gain) < 2:
        return None
    by_rating = sorted(gain, key=lambda source: -values[source])
    both = rank_correlation(list(gain.values()), [values[source] for source in gain])
    line: dict[str, Any] = {"task": task, "sources": len(gain), "rho": None, "p": None, "p_holm": None}
    if both is not None:
        line |= {"rho": both[0], "p": both[1]}
    best = max(gain.values())
    for top in TOP:
        enough = len(gain) > top
        line[f"regret_{top}"] = best - max(gain[source] for source in by_rating[:top]) if enough else None
        line[f"chance_{top}"] = best - fmean(max(some) for some in combinations(gain.values(), top)) if enough else None
    return line


def _correlation(values: list[float]) -> str:
    return mean_correlation(values) if values else "no order of the sources to compare"


def _points(fraction: float) -> str:
    return signed(fraction).removeprefix("+")


def _sort(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
