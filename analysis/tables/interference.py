"""How a target's score changes as more sources are stacked: with its own among them and without, where it bends, what the draw does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading.names import Names
from analysis.tables.grid import Grid, GridCell, GridRow, percent
from analysis.tables.grids import estimate_cells, signed
from analysis.tables.stacks import Estimate, by_seed, certain, groups, paired, points, verdict
from analysis.tables.statistics import holm

ENOUGH = 0.95
"""Share of the whole gain at which more sources add little: where the curve bends."""


@dataclass(frozen=True)
class Interference:
    """The scores of one method over the number of sources."""

    title: str
    own: bool
    """Whether the target's own source is in every stack, or in none."""
    points: pd.DataFrame
    """Per target and number of sources: columns task, count, mean, draws, draw_std (standard deviation over draws, without the seeds' part
    of it) and seed_std (over seeds within a draw). Missing where there is one draw, or one seed."""
    changes: pd.DataFrame
    """Per target, from the fewest to the most sources: columns task, fewest, most, difference, low, high, n, p, p_holm, verdict."""
    average: Estimate
    """The same on average over the targets."""
    reached: Mapping[int, float]
    """Share of that change that is reached with each number of sources."""

    @property
    def bend(self) -> int | None:
        """The fewest sources that reach 95% of the gain. None: it is not certain that there is a gain."""
        if not certain(self.average) or self.average.mean <= 0:
            return None
        return next(count for count, share in sorted(self.reached.items()) if share >= ENOUGH)


def interference(scores: pd.DataFrame, names: Names) -> list[Interference]:
    """Return one entry per method, with and without the target's own source, of which a target has stacks of clearly different size.

    Stacks that differ by one source only, as those of leaving one out, do not count.

    Args:
        scores: As `stack_scores` returns them.
        names: Names of methods and tasks.
    """
    found = []
    for method, variant, part in groups(scores[scores["count"] > 0]):
        title = names.method_title(method) + (f" ({variant})" if variant else "")
        for own in (True, False):
            some = part[part["own"] == own]
            sizes = some.groupby("task")["count"]
            some = some[some["task"].isin(sizes.max().index[(sizes.max() - sizes.min() > 1) & (sizes.nunique() > 1)])]
            if len(some):
                found.append(_interference(title, own, some, names))
    return found


def sentence(entry: Interference, names: Names) -> str:
    """Return what one entry says, with its numbers."""
    counts = sorted(entry.reached)
    whose = "with the target's own source" if entry.own else "without the target's own source"
    text = f"**{entry.title}, {whose}**: from {counts[0]} to {counts[-1]} sources the average changes by {points(entry.average)}. "
    if entry.bend is not None:
        text += f"With {entry.bend} of {counts[-1]} sources {entry.reached[entry.bend]:.0%} of the gain is reached. "
    elif not certain(entry.average):
        text += "That is too little to tell whether more sources help, or where it bends. "
    parts = []
    for what in ("helps", "hurts"):
        some = entry.changes[entry.changes["verdict"] == what]
        listed = [f"{names.task_title(str(task))} ({signed(gain)})" for task, gain in zip(some["task"], some["difference"], strict=True)]
        if listed:
            parts.append(f"{what.removesuffix('s')} {', '.join(listed)}")
    targets = len(entry.changes)
    unsure = int((entry.changes["verdict"] == "unclear").sum())
    text += f"More sources {' and '.join(parts)}{'; ' if unsure else '. '}" if parts else ""
    if unsure:
        text += f"{'for' if parts else 'For'} {unsure} of {targets} targets the change is not certain (Holm). "
    drawn = entry.points.dropna(subset=["draw_std", "seed_std"])
    if len(drawn):
        by_draw, seeds = (float(np.sqrt((drawn[name] ** 2).mean())) for name in ("draw_std", "seed_std"))
        text += f"Which sources are drawn moves a score by {percent(by_draw)} points (standard deviation), the seed by {percent(seeds)}. "
    return text.rstrip()


def interference_grid(entries: list[Interference], names: Names) -> Grid:
    """Return the change of every target as a table."""
    rows = []
    for entry in entries:
        whose = "own among them" if entry.own else "own left out"
        for row in entry.changes.to_dict("records"):
            sizes = GridCell(f"{row['fewest']} to {row['most']}")
            cells = (GridCell(names.task_title(str(row["task"]))), sizes, *estimate_cells(row, "difference"))
            rows.append(GridRow(f"{entry.title}, {whose}", cells))
    header = ("Target", "Sources", "Change", "95% interval", "Seeds", "p (Holm)", "More sources")
    notes = ("Percentage points, most sources minus fewest, means over draws paired by seed. Student's interval and t test.",)
    return Grid("Score and number of sources", header, ("",) * 7, tuple(rows), (), notes, (False, False, *[True] * 4, False))


def _interference(title: str, own: bool, scores: pd.DataFrame, names: Names) -> Interference:
    order = names.order_tasks(scores["task"])
    curve = [_point(task, int(count), cell) for task in order for count, cell in _by_count(scores[scores["task"] == task])]
    changes = [_change(task, scores[scores["task"] == task]) for task in order]
    tested = [entry for entry in changes if entry["p"] is not None]
    for entry, p in zip(tested, holm([float(entry["p"]) for entry in tested]), strict=True):
        entry["p_holm"] = p
        entry["verdict"] = verdict(float(entry["difference"]), p)
    whole = scores[scores["task"].isin(_spanning(scores))]
    sizes = sorted(set(whole["count"]))
    means = whole.groupby(["count", "task", "seed"])["value"].mean().groupby(["count", "seed"]).mean()
    average = paired(means[sizes[-1]], means[sizes[0]])
    assert average is not None
    level = means.groupby("count").mean()
    gain = float(level[sizes[-1]] - level[sizes[0]])
    complete = [count for count in sizes if set(whole.loc[whole["count"] == count, "task"]) == set(whole["task"])]
    reached = {count: float(level[count] - level[sizes[0]]) / gain if gain else 0.0 for count in complete}
    return Interference(title, own, pd.DataFrame(curve), pd.DataFrame(changes), average, reached)


def _by_count(scores: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    return [(int(str(count)), cell) for count, cell in scores.groupby("count")]


def _spanning(scores: pd.DataFrame) -> list[str]:
    """Return the targets that have both the fewest and the most sources, so that averages over them compare like with like."""
    ends = scores.groupby("task")["count"].agg(["min", "max"])
    kept = ends[(ends["min"] == ends["min"].min()) & (ends["max"] == ends["max"].max())]
    return list(kept.index if len(kept) else ends.index[:1])


def _point(task: str, count: int, cell: pd.DataFrame) -> dict[str, Any]:
    per_draw = cell.groupby("sources")["value"].agg(["mean", "std", "count"])
    seed_std = float(np.sqrt((per_draw["std"] ** 2).mean()))
    draw_std = float("nan")
    if len(per_draw) > 1 and not np.isnan(seed_std):
        noise = float((per_draw["std"] ** 2 / per_draw["count"]).mean())
        draw_std = float(np.sqrt(max(0.0, float(per_draw["mean"].var()) - noise)))
    mean = float(per_draw["mean"].mean())
    return {"task": task, "count": count, "mean": mean, "draws": len(per_draw), "draw_std": draw_std, "seed_std": seed_std}


def _change(task: str, scores: pd.DataFrame) -> dict[str, Any]:
    fewest, most = int(scores["count"].min()), int(scores["count"].max())
    found = paired(by_seed(scores[scores["count"] == most]), by_seed(scores[scores["count"] == fewest]))
    about = {"task": task, "fewest": fewest, "most": most}
    if found is None:
        means = [float(scores.loc[scores["count"] == count, "value"].mean()) for count in (most, fewest)]
        found = Estimate(means[0] - means[1], None, None, 0, None)
    values = {"difference": found.mean, "low": found.low, "high": found.high, "n": found.n, "p": found.p}
    return {**about, **values, "p_holm": None, "verdict": "unclear"}
