"""Who helps whom: the gain of each source for each target, alone and by leaving it out, and whether learned omegas tell the same."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd

from analysis.reading.names import Names, short_name
from analysis.tables.grid import Grid, GridCell, GridRow
from analysis.tables.grids import estimate_cells, signed
from analysis.tables.omega import Omega
from analysis.tables.stacks import by_seed, groups, largest, mean_correlation, paired, rank_correlation, verdict
from analysis.tables.statistics import holm

Kind = Literal["single", "left out"]
KINDS: dict[Kind, str] = {"single": "alone", "left out": "by leaving it out"}

NO_GAIN = 1e-9
"""Equal scores, whose means differ by rounding."""
_COLUMNS = ["kind", "title", "method", "task", "source", "against", "gain", "low", "high", "n", "p", "p_holm", "verdict"]


def gains(scores: pd.DataFrame, names: Names) -> pd.DataFrame:
    """Return the gain of every source for every target, paired by seed.

    Alone, a source is compared with stacking nothing (a fixed omega of 0) or else with the target's own source alone. Left out, the stack
    of all sources is compared with the one that lacks it.

    Args:
        scores: As `stack_scores` returns them.
        names: Names of methods and tasks.

    Returns:
        Columns kind (`single` or `left out`), title, method, task, source, against (`nothing`, `own` or `all`), gain (a fraction, positive:
        the source helps), low, high (Student's 95% interval), n (seeds), p, p_holm (over all pairs of a method), verdict (`helps`,
        `hurts`, `unclear`).
    """
    rows: list[dict[str, Any]] = []
    for method, variant, part in groups(scores):
        title = names.method_title(method) + (f" ({variant})" if variant else "")
        for kind, pairs in (("single", _alone(part)), ("left out", _left_out(part))):
            found = [{"kind": kind, "title": title, "method": method, **pair} for pair in pairs]
            tested = [row for row in found if row["p"] is not None]
            for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
                row |= {"p_holm": p, "verdict": verdict(row["gain"], p)}
            if len({row["source"] for row in found}) > 1:
                rows += found
    kinds = {"gain": "float64", "low": "float64", "high": "float64", "p": "float64", "p_holm": "float64"}
    return pd.DataFrame(rows, columns=_COLUMNS).astype(kinds)


def matrices(found: pd.DataFrame) -> Iterator[tuple[Kind, str, pd.DataFrame]]:
    """Iterate over kind, title and pairs of each matrix of gains."""
    for (kind, title), pairs in found.groupby(["kind", "title"], sort=False):
        yield ("single" if kind == "single" else "left out"), str(title), pairs


def sentence(kind: Kind, title: str, pairs: pd.DataFrame, names: Names) -> str:
    """Return what one matrix says, with its numbers."""
    best, worst = (pairs.iloc[int(place)] for place in (pairs["gain"].argmax(), pairs["gain"].argmin()))
    hurt, sure = int((pairs["gain"] < -NO_GAIN).sum()), pairs["verdict"].value_counts()
    text = f"**{title}, each source {KINDS[kind]}**: {_told(best, names)} is the largest gain of {len(pairs)} pairs"
    text += f", {_told(worst, names)} the smallest. " if len(pairs) > 1 else ". "
    text += f"Transfer is negative in the mean for {hurt} pairs, and certainly (Holm) for {sure.get('hurts', 0)}; "
    text += f"{sure.get('helps', 0)} certainly help."
    if not sure.get("hurts", 0) and not sure.get("helps", 0):
        text += (
            f" With {int(pairs['n'].max())} seed{'s' if pairs['n'].max() != 1 else ''} that is too little to tell one source from another."
        )
    return text


def omega_agreement(found: pd.DataFrame, scores: pd.DataFrame, omegas: Sequence[Omega], names: Names) -> pd.DataFrame:
    """Return, per matrix and target, whether the sources that gain most have the largest learned omegas.

    The omegas are those of the largest stack: of the matrix's own method, or of every method that learned some where its own learned none.

    Returns:
        Columns kind, title, omegas (title of the method that learned them), task, sources (how many), rho (Spearman), p (by permutation),
        p_holm (over targets).
    """
    learned = _learned(scores, omegas)
    rows: list[dict[str, Any]] = []
    for kind, title, pairs in matrices(found):
        own = {name for name, *_ in learned if name == str(pairs["method"].iloc[0])}
        for method in sorted(own or {name for name, *_ in learned}):
            tested: list[dict[str, Any]] = []
            for task, line in pairs.groupby("task", sort=False):
                means = learned.get((method, str(task)))
                shared = [] if means is None else [name for name in line["source"] if name in means.index]
                told = line.set_index("source")["gain"]
                both = rank_correlation([told[name] for name in shared], [means[name] for name in shared]) if means is not None else None
                if both is not None:
                    about = {"kind": kind, "title": title, "omegas": names.method_title(method), "task": task, "sources": len(shared)}
                    tested.append({**about, "rho": both[0], "p": both[1]})
            rows += [{**row, "p_holm": p} for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True)]
    return pd.DataFrame(rows, columns=["kind", "title", "omegas", "task", "sources", "rho", "p", "p_holm"])


def agreement_sentences(agreement: pd.DataFrame, names: Names) -> list[str]:
    """Return what the correlations say, with their numbers."""
    lines = []
    for (kind, title, omegas), part in agreement.groupby(["kind", "title", "omegas"], sort=False):
        sure = [names.task_title(str(row["task"])) for row in part.to_dict("records") if row["p_holm"] < 0.05]
        text = f"Omegas of {omegas} and gains of {title}, each source {KINDS['single' if kind == 'single' else 'left out']}, "
        text += f"agree with a {mean_correlation(part['rho'].tolist())}; "
        lines.append(text + (f"certainly for {', '.join(sure)} (Holm)." if sure else "for no target certainly (Holm)."))
    return lines


def gain_grid(found: pd.DataFrame, names: Names) -> Grid:
    """Return every pair as a table."""
    rows = []
    for kind, title, pairs in matrices(found):
        for row in pairs.to_dict("records"):
            cells = (GridCell(names.task_title(str(row["task"]))), GridCell(str(row["source"])), *estimate_cells(row, "gain"))
            rows.append(GridRow(f"{title}, each source {KINDS[kind]}", cells))
    header = ("Target", "Source", "Gain", "95% interval", "Seeds", "p (Holm)", "Verdict")
    notes = (
        "Percentage points, paired by seed; Student's interval and t test, Holm's correction over all pairs of a method. Alone: against "
        "stacking nothing, or else against the target's own source alone.",
    )
    return Grid("Who helps whom", header, ("",) * 7, tuple(rows), (), notes, (False, False, *[True] * 4, False))


def _told(row: "pd.Series[Any]", names: Names) -> str:
    spread = interval_of(row)
    return f"{row['source']}'s for {names.task_title(str(row['task']))} ({signed(row['gain'])} points; {spread})"


def interval_of(row: "pd.Series[Any]") -> str:
    """Return how certain a pair's gain is, in words."""
    seeds = f"{int(row['n'])} seed{'s' if row['n'] != 1 else ''}"
    return seeds if pd.isna(row["low"]) else f"95% interval {signed(row['low'])} to {signed(row['high'])}, {seeds}"


def _alone(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for task, part in scores[scores["count"] < 2].groupby("task", sort=False):
        nothing, own = part[part["count"] == 0], part[(part["count"] == 1) & part["own"]]
        reference, against = (nothing, "nothing") if len(nothing) else (own, "own")
        singles = part[part["count"] == 1]
        if len(reference):
            for source, cell in singles.groupby("sources", sort=False):
                if against == "nothing" or str(source) != short_name(str(task)):
                    yield from _pair(str(task), str(source), against, by_seed(cell), by_seed(reference))


def _left_out(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for task, part in scores.groupby("task", sort=False):
        by_sources = {frozenset(str(sources).split(",")): cell for sources, cell in part[part["count"] > 0].groupby("sources")}
        every = max(by_sources, key=len, default=frozenset())
        left = {source: by_sources[every - {source}] for source in sorted(every) if len(every) > 1 and every - {source} in by_sources}
        for source, cell in left.items() if len(left) > 1 else ():
            yield from _pair(str(task), source, "all", by_seed(by_sources[every]), by_seed(cell))


def _pair(task: str, source: str, against: str, one: "pd.Series[float]", two: "pd.Series[float]") -> Iterator[dict[str, Any]]:
    found = paired(one, two)
    if found is not None:
        values = {"gain": found.mean, "low": found.low, "high": found.high, "n": found.n, "p": found.p}
        yield {"task": task, "source": source, "against": against, **values, "p_holm": None, "verdict": "unclear"}


def _learned(scores: pd.DataFrame, omegas: Sequence[Omega]) -> "dict[tuple[str, str], pd.Series[float]]":
    """Return the mean omega of each source over seeds, by method and target, in the largest stack of whole sources."""
    nodes = largest(scores)
    by_cell: dict[tuple[str, str], list[Omega]] = {}
    for omega in omegas:
        if omega.node in nodes:
            by_cell.setdefault((omega.method, omega.task), []).append(omega)
    return {
        key: pd.concat([pd.Series(omega.by_source, index=list(omega.sources)) for omega in some], axis=1).mean(axis=1)
        for key, some in by_cell.items()
    }
