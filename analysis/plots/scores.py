"""Plots of scores: efficiency, ranks, and score against a quantity that the sweep varies."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots.style import COLORMAP, DIVERGING, Plot, ink, is_light, legend, panels, styles
from analysis.reading.frame import distinct
from analysis.reading.names import Names
from analysis.reading.selection import Rule, check_rule, choose_learning_rate, variants
from analysis.tables.benchmark import BenchmarkTable
from analysis.tables.grid import printable
from analysis.tables.statistics import Ranks

AXES = {
    "few_shot": "training rows",
    "train_share": "share of the training rows",
    "train_rows": "training rows",
    "source_count": "number of sources",
    "learning_rate": "learning rate",
}
_LOGARITHMIC = {"few_shot", "learning_rate", "train_rows"}


def efficiency(table: BenchmarkTable) -> Plot | None:
    """Draw the average score against the transfer parameters of all targets, on a log scale, for complete rows of known parameters."""
    rows = [row for row in table.rows if row.is_complete and row.parameters_total]
    if len(rows) < 2:
        return None

    def draw() -> Figure:
        figure, (axes,) = panels(1, width=6.2, height=3.6)
        for row, style in zip(rows, styles([row.title for row in rows]).values(), strict=True):
            spread = None if row.average_std is None else 100 * row.average_std
            assert row.average is not None
            total = float(row.parameters_total or 0)
            marker = {"color": style["color"], "marker": style["marker"]}
            axes.errorbar(total, 100 * row.average, yerr=spread, capsize=3, markersize=8, linestyle="", label=row.title, **marker)
        axes.set_xscale("log")
        axes.set_xlabel("transfer parameters of all targets together (log scale)")
        axes.set_ylabel("average score (%)")
        legend(figure, [axes])
        return figure

    caption = (
        "Average score over the targets against the number of trained transfer parameters; bars: standard deviation over shared seeds."
    )
    return Plot("efficiency", "Parameter efficiency", caption, draw)


def score_against(frame: pd.DataFrame, column: str, *, split: str = "test", rule: Rule = "validation") -> Plot | None:
    """Draw the score against a column that the sweep varies: few-shot rows, training share, number of sources, learning rate.

    There is a panel per target, a line per method, and a band of one standard deviation over seeds. The learning rate at each point is
    chosen by the validation score. If the learning rate itself is the axis, validation scores are shown, since they decide the choice.

    Returns:
        The plot. None: no method has two values of the column.
    """
    if column == "learning_rate":
        split = "validation"
    points = curve_points(frame, column, split=split, rule=rule)
    points = points[points.groupby(["task", "method", "variant"])["x"].transform("nunique") > 1]
    if points.empty:
        return None
    names, targets = Names.of(frame), frame.attrs.get("sweep", {}).get("targets")
    tasks = [task for task in targets or names.order_tasks(points["task"]) if task in set(points["task"])]
    order = names.order_methods(points["method"])
    lines = sorted(set(zip(points["method"], points["variant"], strict=True)), key=lambda line: (order.index(line[0]), line[1]))

    def draw() -> Figure:
        looks = styles([f"{method} {variant}" for method, variant in lines])
        figure, axes = panels(len(tasks))
        for panel, task in zip(axes, tasks, strict=True):
            for (method, variant), look in zip(lines, looks.values(), strict=True):
                line = points[(points["task"] == task) & (points["method"] == method) & (points["variant"] == variant)].sort_values("x")
                x, mean, std = (line[name].to_numpy(dtype=float) for name in ("x", "mean", "std"))
                if len(x):
                    panel.plot(x, 100 * mean, label=names.method_title(method) + (f" ({variant})" if variant else ""), **look)
                    band = np.nan_to_num(std)
                    panel.fill_between(x, 100 * (mean - band), 100 * (mean + band), color=look["color"], alpha=0.18)
            if column in _LOGARITHMIC:
                panel.set_xscale("log")
            ticks = sorted(set(points["x"]))
            if len(ticks) <= 8:
                panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                panel.set_xticks([], minor=True)
            _label(panel, names.task_title(task, tasks), AXES.get(column, column), f"{split} score (%)")
        legend(figure, axes)
        return figure

    title = {"learning_rate": "Learning-rate sensitivity", "few_shot": "Few-shot curves", "source_count": "Score against number of sources"}
    caption = f"Mean {split} score over seeds against {AXES.get(column, column)}; bands: one standard deviation over seeds."
    return Plot(f"score_against_{column}", title.get(column, f"Score against {AXES.get(column, column)}"), caption, draw)


def curve_points(frame: pd.DataFrame, column: str, *, split: str = "test", rule: Rule = "validation") -> pd.DataFrame:
    """Return mean and sample standard deviation over seeds for each task, method, variant and value of the column.

    Returns:
        Columns task, method, variant, x (the column's value), mean, std (missing for one seed), n, chosen (the learning rate).
    """
    rule = check_rule(rule)
    primary = _told_apart(frame, column)
    rows: list[tuple[str, str, str, float, float, float, int, float | None]] = []
    for keys, jobs in primary.groupby(["task", "method", "variant", column]):
        task, method, variant, value = (str(keys[0]), str(keys[1]), str(keys[2]), float(str(keys[3])))
        by_rate = column == "learning_rate"
        choice = choose_learning_rate(jobs, value if by_rate else rule, method)
        scores = jobs.loc[(jobs["split"] == split) & choice.picks(jobs), "value"]
        if len(scores):
            rows.append((task, method, variant, value, float(scores.mean()), float(scores.std()), len(scores), choice.learning_rate))
    return pd.DataFrame(rows, columns=["task", "method", "variant", "x", "mean", "std", "n", "chosen"])


def _told_apart(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return primary scores with a column `variant` for jobs that differ in more than the column that is the axis."""
    frame = distinct(frame.drop(columns="variant", errors="ignore"))
    frame = frame[frame[column].notna() & (frame["method"] != "scalearn_fixed")]
    nodes = frame.drop_duplicates(["node", "task"])
    # Another number of sources means other sources. That is the axis itself; only the target's own source is worth a line of its own.
    same = {column: 0} | ({"sources": _own_source(nodes), "parents": ""} if column == "source_count" else {})
    nodes = nodes.assign(variant=variants(nodes.assign(**same) if column != "learning_rate" else nodes))
    frame = frame[frame["primary"].fillna(False).astype(bool)]
    return frame.merge(nodes[["node", "task", "variant"]], on=["node", "task"], how="left")


def _own_source(nodes: pd.DataFrame) -> list[str]:
    """Return for each job whether the adapter of its own target is among its sources, as text for a legend."""
    pairs = zip(nodes["task_name"], nodes["sources"], strict=True)
    return [f"{'with' if task in str(sources).split(',') else 'without'} the target's own" for task, sources in pairs]


def critical_difference(found: Ranks | None) -> Plot | None:
    """Draw average ranks on a line. Bars join methods that do not differ significantly (Demsar 2006)."""
    if found is None or len(found.average) < 3 or found.targets < 2:
        return None

    def draw() -> Figure:
        count = len(found.average)
        bars = found.cliques
        height = 0.9 + 0.24 * (len(bars) + (count + 1) // 2)
        figure = Figure(figsize=(6.8, height))
        axes = figure.add_subplot()
        axes.grid(False)
        axes.set_xlim(0.6, count + 0.4)
        depth = 0.6 + 0.5 * len(bars) + 0.7 * ((count + 1) // 2)
        axes.set_ylim(-depth, 0.7)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.tick_top()
        axes.set_yticks([])
        axes.set_xticks(range(1, count + 1))
        axes.axhline(0.7, color=ink(), linewidth=1.6)
        places = dict(found.average)
        for index, group in enumerate(bars):
            level = 0.25 - 0.5 * index
            axes.plot(
                [places[group[0]] - 0.03, places[group[-1]] + 0.03], [level, level], color="#D55E00", linewidth=4, solid_capstyle="round"
            )
        half = (count + 1) // 2
        for index, (title, rank) in enumerate(found.average):
            left = index < half
            level = -0.3 - 0.5 * len(bars) - 0.7 * (index if left else count - 1 - index)
            edge = 0.6 if left else count + 0.4
            axes.plot([rank, rank, edge], [0.7, level, level], color=ink(), linewidth=0.8)
            text = f"{title} {rank:.2f}"
            axes.annotate(
                text, (edge, level), (3 if left else -3, 2), textcoords="offset points", ha="left" if left else "right", fontsize=8
            )
        return figure

    p = "" if found.friedman_p is None else f" Friedman p = {found.friedman_p:.3g}."
    caption = (
        f"Average rank over {found.targets} targets, best left; bars join methods within the critical difference of "
        f"{found.critical_difference:.2f} (Nemenyi, level {found.alpha:g}).{p}"
    )
    return Plot("critical_difference", "Average ranks", caption, draw)


def probing_grid(frame: pd.DataFrame, *, split: str = "test") -> Plot | None:
    """Draw the score over the grid of two fixed omegas, with a panel per target and pair of sources. One source gives a line.

    This reads jobs of the method `scalearn_fixed`, whose setting `omega` holds one number per source.
    """
    grids, titles = probing_scores(frame, split=split), Names.of(frame)
    if not grids:
        return None

    def draw() -> Figure:
        figure, axes = panels(len(grids), width=3.6, height=3.2)
        for panel, ((task, sources), scores) in zip(axes, grids.items(), strict=True):
            names = sources.split(",")
            if len(names) == 1:
                panel.plot(scores.index, 100 * scores.iloc[:, 0].to_numpy(dtype=float), **styles(["x"])["x"])
                _label(panel, titles.task_title(task), f"omega of {names[0]}", f"{split} score (%)")
                continue
            values = 100 * scores.to_numpy(dtype=float)
            annotated_grid(panel, values, [f"{value:g}" for value in scores.index], [f"{value:g}" for value in scores.columns], digits=1)
            _label(panel, titles.task_title(task), f"omega of {names[1]}", f"omega of {names[0]}")
        return figure

    return Plot("probing", "Probing with fixed omega", f"Mean {split} score (%) with omega fixed and only the head learned.", draw)


def probing_scores(frame: pd.DataFrame, *, split: str = "test") -> dict[tuple[str, str], pd.DataFrame]:
    """Return mean scores over seeds by task and sources. Index: first source's omega. Columns: the second's (one column 0 if none)."""
    if "setting_omega" not in frame.columns:
        return {}
    fixed = frame[(frame["method"] == "scalearn_fixed") & (frame["split"] == split) & frame["primary"].fillna(False).astype(bool)]
    fixed = fixed[fixed["source_count"] <= 2]
    grids = {}
    for (task, sources), jobs in fixed.groupby(["task", "sources"]):
        omegas = [[float(part) for part in str(text).split(",")] for text in jobs["setting_omega"]]
        table = jobs.assign(first=[pair[0] for pair in omegas], second=[pair[1] if len(pair) > 1 else 0.0 for pair in omegas])
        grids[(str(task), str(sources))] = table.pivot_table(index="first", columns="second", values="value", aggfunc="mean")
    return grids


def annotated_grid(
    axes: Axes,
    values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    digits: int = 2,
    differences: float | None = None,
) -> None:
    """Draw a heat map with its numbers in the cells, dark on light cells and light on dark ones.

    Args:
        axes: Where to draw.
        values: [rows, columns].
        rows: Label of each row.
        columns: Label of each column.
        digits: Digits behind the point.
        differences: The values are differences: they get a sign, and colours that are palest at 0 and as full on either side. The number
            is the least difference of full colour, so that noise stays pale. None: the colours go from the smallest value to the largest.
    """
    # A tick keeps its label apart from the picture's other texts, which `Plot` makes printable, so labels are made printable here.
    rows, columns = list(map(printable, rows)), list(map(printable, columns))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if differences is not None:
        high = max(-low, high, differences)
        low = -high
    mesh = axes.pcolormesh(values, cmap=COLORMAP if differences is None else DIVERGING, edgecolors="none", vmin=low, vmax=high)
    axes.grid(False)
    axes.invert_yaxis()
    axes.set_xticks(
        np.arange(len(columns)) + 0.5,
        columns,
        rotation=35 if max(map(len, columns)) > 4 else 0,
        ha="right" if max(map(len, columns)) > 4 else "center",
    )
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not np.isnan(value):
                color = "#111111" if is_light(mesh.to_rgba(value)) else "#ffffff"
                number = f"{value:.{digits}f}" if differences is None else _signed(value, digits if high >= 0.1 else digits + 1)
                axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", color=color, fontsize=8)


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign, `+0.12` or `−0.12`. What rounds to zero has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
