"""A ladder from the least to the most expressive use of the same sources.

It says which share of the gap between a single adapter and the ceiling each rung wins.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.tables.benchmark import BenchmarkTable, Row
from analysis.tables.grid import Grid, GridCell, GridRow, count, percent
from analysis.tables.grids import signed

FLOORS = ("adapter", "lora")
"""Methods of a single module, trained on the target alone: the foot of the ladder."""
CEILING = "sources_unfrozen"
"""The method that is what scaling could reach if it were free."""
LEVEL = 0.05
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ladder:
    """The rungs of a sweep."""

    floor: Row
    ceiling: Row
    rungs: pd.DataFrame
    """See `ladder`."""
    targets: tuple[str, ...]
    """Task keys on which foot and ceiling have scores."""
    seeds: int
    """How many seeds foot and ceiling share on all of them."""

    @property
    def average(self) -> pd.DataFrame:
        """The rungs' averages over the targets."""
        return self.rungs[self.rungs["target"] == "average"]


def ladder(table: BenchmarkTable) -> Ladder | None:
    """Return the rungs of a sweep's table. None: it has no single module or no ceiling with scores.

    A rung's share is its mean gain over the single module, divided by the ceiling's mean gain. Both are paired by seed, and the interval
    of their ratio is Fieller's (1954), which is unbounded where the seeds do not tell the ceiling's gain from zero. Intervals of several
    targets hold together (Bonferroni). Shares are given only for a rung with the seeds that foot and ceiling share.

    Args:
        table: The benchmark table, whose learning rates are chosen.

    Returns:
        `rungs` with the columns method, title, target (task key, or `average`), score, gain (over the foot), share, low, high (NaN: too
        little to tell), parameters (per target) and n (seeds). Rows come by parameters, fewest first.
    """
    floor = next((row for key in FLOORS for row in table.rows if row.method == key), None)
    ceiling = next((row for row in table.rows if row.method == CEILING), None)
    if floor is None or ceiling is None:
        return None
    scored = [place for place in range(len(table.targets)) if floor.cells[place].scores and ceiling.cells[place].scores]
    if not scored:
        return None
    targets = tuple(table.targets[place] for place in scored)
    rows: list[dict[str, Any]] = []
    for row in sorted((row for row in table.rows if _is_rung(row, scored)), key=_parameters):
        about = {"method": row.method, "title": row.title, "parameters": _parameters(row)}
        for target, places in [*((table.targets[place], [place]) for place in scored), ("average", scored)]:
            told = len(scored) if target != "average" else 1
            rows.append({**about, "target": target, **_share([row, floor, ceiling], places, LEVEL / told)})
    frame = pd.DataFrame(rows, columns=["method", "title", "target", "score", "gain", "share", "low", "high", "parameters", "n"])
    return Ladder(floor, ceiling, frame, targets, len(_shared([floor, ceiling], scored)))


def fieller(gains: Array, whole: Array, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of the ratio of two means of paired numbers (Fieller 1954). None: it is unbounded.

    Args:
        gains: The numerator, one number per seed.
        whole: The denominator, for the same seeds.
        level: Probability that the interval misses the ratio.
    """
    seeds = len(gains)
    if seeds < 2:
        return None
    t = float(stats.t.ppf(1 - level / 2, seeds - 1))
    (first, both), (_, second) = np.cov(gains, whole) * t * t / seeds
    square, middle, rest = whole.mean() ** 2 - second, gains.mean() * whole.mean() - both, gains.mean() ** 2 - first
    if square <= 1e-15:
        return None
    half = math.sqrt(max(0.0, middle**2 - square * rest))
    return float((middle - half) / square), float((middle + half) / square)


def ladder_grid(found: Ladder, table: BenchmarkTable) -> Grid:
    """Return the rungs as a table, fewest parameters first."""
    rows = []
    for entry in found.average.to_dict("records"):
        own = found.rungs[found.rungs["title"] == entry["title"]].set_index("target")
        cells = [
            GridCell(str(entry["title"])),
            GridCell(count(int(entry["parameters"])), sort=float(entry["parameters"])),
            GridCell(percent(_or_none(entry["score"])), sort=_or_none(entry["score"])),
            GridCell("–" if pd.isna(entry["gain"]) else signed(entry["gain"]), sort=_or_none(entry["gain"])),
            _share_cell(entry),
            GridCell(_interval(entry)),
            *(_share_cell(own.loc[target].to_dict()) for target in found.targets if len(found.targets) > 1),
        ]
        rows.append(GridRow("", tuple(cells)))
    titles = dict(zip(table.targets, table.target_titles, strict=True))
    per_target = tuple(titles[target] for target in found.targets) if len(found.targets) > 1 else ()
    header = ("Method", "Parameters", "Average", "Gain", "Share of the gap", "95% interval", *per_target)
    notes = (
        f"Share: gain over {found.floor.title}, divided by that of {found.ceiling.title}, both paired by seed; interval: Fieller's, "
        f"over {found.seeds} seeds. A dash: the seeds do not tell the ceiling's gain from zero, or the row lacks scores. "
        "Per target: with an interval of all targets together, or a dash.",
    )
    return Grid("The ladder", header, ("",) * len(header), tuple(rows), (), notes, (False, *[True] * (len(header) - 1)))


def sentence(found: Ladder) -> str:
    """Return what the ladder tells, in one Markdown sentence with its numbers."""
    entries: list[dict[Any, Any]] = found.average.to_dict("records")
    top = next(entry for entry in entries if entry["title"] == found.ceiling.title)
    score, gap = float(top["score"]), float(top["gain"])
    targets, seeds = _several(len(found.targets), "target"), _several(found.seeds, "seed")
    foot = f"**The ladder.** On {targets}, {found.floor.title} has {percent(score - gap)}% and {found.ceiling.title} {percent(score)}%"
    if gap <= 0:
        return f"{foot}, over {seeds}: there is no gap of which a method could win a share."
    if pd.isna(top["low"]):
        does = "does" if found.seeds == 1 else "do"
        return (
            f"{foot}: {seeds} {does} not tell this gap of {signed(gap)} points from zero, so there is too little to tell which share of it "
            "any method wins."
        )
    others = [each for each in entries if not pd.isna(each["share"]) and each["title"] not in (found.floor.title, found.ceiling.title)]
    frozen = [each for each in others if each["method"] != "full_ft"]
    best, least = max(frozen, key=lambda each: float(each["score"]), default=None), next(iter(frozen), None)
    told = [f"{each['title']} wins {_told(each)} with {_counted(each)}" for each in (best, least if least is not best else None) if each]
    told += [f"{each['title']} wins {_told(each)}" for each in others if each["method"] == "full_ft"]
    return f"{foot}, over {seeds}: of these {signed(gap)} points {'; '.join(told) or 'no other method has all scores'}."


def _several(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _told(entry: dict[Any, Any]) -> str:
    return f"{_share_cell(entry).text} (95% interval {_interval(entry)})"


def _counted(entry: dict[Any, Any]) -> str:
    return f"{count(int(entry['parameters']))} parameters per target" if entry["parameters"] else "none but the head's parameters"


def _is_rung(row: Row, places: list[int]) -> bool:
    return any(row.cells[place].parameters is not None and not row.cells[place].joint for place in places)


def _parameters(row: Row) -> int:
    return max((each for each in row.parameters_per_target if each is not None), default=0)


def _shared(rows: list[Row], places: list[int]) -> list[int]:
    """Return the seeds that several rows have on all targets."""
    return sorted(set.intersection(*({seed for seed, _ in row.cells[place].scores} for row in rows for place in places)))


def _share(rows: list[Row], places: list[int], level: float) -> dict[str, Any]:
    """Return the score of the first row, and its share of the gap between the second and the third."""
    seeds = _shared(rows[1:], places)
    means = [cell.mean for cell in (rows[0].cells[place] for place in places)]
    told: dict[str, Any] = dict.fromkeys(("gain", "share", "low", "high"), math.nan)
    told |= {"score": math.nan if None in means else float(np.mean([mean for mean in means if mean is not None])), "n": len(seeds)}
    if not seeds or set(seeds) - set(_shared(rows, places)):
        return told
    own, floor, top = (
        np.array([np.mean([dict(row.cells[place].scores)[seed] for place in places]) for seed in seeds], dtype=np.float64) for row in rows
    )
    told["gain"] = float((own - floor).mean())
    interval = fieller(own - floor, top - floor, level)
    if (top - floor).mean() > 0 and (interval is not None or len(seeds) == 1):
        told["share"] = float((own - floor).mean() / (top - floor).mean())
        told["low"], told["high"] = interval if interval is not None else (math.nan, math.nan)
    return told


def _share_cell(entry: dict[Any, Any]) -> GridCell:
    share = _or_none(entry["share"])
    return GridCell("–" if share is None else f"{100 * share:.0f}%".replace("-", "−"), sort=share)


def _interval(entry: dict[Any, Any]) -> str:
    if pd.isna(entry["low"]):
        return "–"
    return f"{100 * entry['low']:.0f} to {100 * entry['high']:.0f}%".replace("-", "−")


def _or_none(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
