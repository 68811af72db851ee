"""Plots of what sources do: score over their number, gains as a matrix, omega over their quality."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.plots.scores import annotated_grid
from analysis.plots.style import Plot, ink, legend, panels, styles
from analysis.reading.names import Names
from analysis.tables.foresight import MEASURES, TOP
from analysis.tables.gains import KINDS, matrices
from analysis.tables.interference import Interference
from analysis.tables.quality import order, quality_title


def interference_plot(entries: Sequence[Interference], names: Names) -> Plot | None:
    """Draw the mean score against the number of sources: a panel per target, a line per method, with and without the target's own."""
    if not entries:
        return None
    tasks = names.order_tasks(str(task) for entry in entries for task in entry.points["task"])
    labels = [f"{entry.title}, {'own source' if entry.own else 'others only'}" for entry in entries]

    def draw() -> Figure:
        figure, axes = panels(len(tasks))
        for panel, task in zip(axes, tasks, strict=True):
            for entry, look in zip(entries, styles(labels).values(), strict=True):
                line = entry.points[entry.points["task"] == task].sort_values("count")
                x, mean, spread = (line[name].to_numpy(dtype=float) for name in ("count", "mean", "draw_std"))
                label = labels[entries.index(entry)]
                panel.errorbar(x, 100 * mean, yerr=100 * np.nan_to_num(spread), capsize=3, label=label, **look)
            panel.set_title(names.task_title(task, tasks))
            panel.set_xlabel("number of sources")
            panel.set_ylabel("test score (%)")
            panel.set_xticks(sorted({count for entry in entries for count in entry.points["count"]}))
        legend(figure, axes)
        return figure

    caption = (
        "Mean test score over draws and seeds against the number of sources; bars: standard deviation over draws, without the seeds' part."
    )
    return Plot("interference", "Score and number of sources", caption, draw)


def gain_plots(found: pd.DataFrame, names: Names) -> list[Plot]:
    """Return one plot per matrix of gains: target x source, in points; a frame marks certain help, hatching certain harm."""
    return [_matrix(kind, title, pairs, names) for kind, title, pairs in matrices(found)]


def _matrix(kind: str, title: str, pairs: pd.DataFrame, names: Names) -> Plot:
    tasks = names.order_tasks(pairs["task"])
    wide = pairs.pivot_table(index="task", columns="source", values="gain", sort=False).reindex(index=tasks)
    sure = pairs.set_index(["task", "source"])["verdict"]

    def draw() -> Figure:
        figure, (axes,) = panels(1, width=max(1.4 + 0.75 * len(wide.columns), 3.6), height=max(0.9 + 0.42 * len(wide), 1.6))
        annotated_grid(axes, 100 * wide.to_numpy(dtype=float), [names.task_title(task) for task in tasks], list(map(str, wide.columns)))
        for row, task in enumerate(tasks):
            for column, source in enumerate(wide.columns):
                said = sure.get((task, source), "unclear")
                if said != "unclear":
                    look = {"hatch": "////", "edgecolor": "#D55E00"} if said == "hurts" else {"edgecolor": ink()}
                    axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fill=False, linewidth=2.0, **look))
        axes.set_xlabel("source")
        axes.set_ylabel("target")
        return figure

    name = re.sub(r"[^A-Za-z0-9.]+", "_", f"gains {kind} {pairs['method'].iloc[0]} {title.partition(' (')[2]}").strip("_")
    how = KINDS["single" if kind == "single" else "left out"]
    marks = "framed: it helps; hatched: it hurts; both certain after Holm's correction."
    caption = f"Gain of each source (column) for each target (row), {how}, in points; {marks}"
    return Plot(name, f"Who helps whom, each source {how}: {title}", caption, draw)


def foresight_plot(told: pd.DataFrame) -> Plot | None:
    """Draw the regret at 1 and 3 of each measure beside that of chance, as means over targets."""
    drawn = [top for top in TOP if told[f"regret_{top}"].notna().any()]
    if not drawn:
        return None
    lines = list(told.groupby(["kind", "title"], sort=False))
    measures = [measure for measure in MEASURES if measure in set(told["measure"])]

    def draw() -> Figure:
        figure, axes = panels(len(lines), width=3.4, height=2.8, columns=2)
        for panel, ((kind, title), part) in zip(axes, lines, strict=True):
            for place, top in enumerate(drawn):
                means = part.groupby("measure")[[f"regret_{top}", f"chance_{top}"]].mean().reindex(measures)
                heights = [*means[f"regret_{top}"], means[f"chance_{top}"].mean()]
                at = np.arange(len(heights)) + (place - (len(drawn) - 1) / 2) * 0.38
                look = {"hatch": ("", "////")[place], "edgecolor": ink(), "color": ("#0072B2", "#E69F00")[place]}
                panel.bar(at, 100 * np.nan_to_num(heights), width=0.36, label=f"regret at {top}", linewidth=0.5, **look)
            ticks = [*(MEASURES[measure].replace(" of ", "\nof ") for measure in measures), "chance"]
            panel.set_xticks(range(len(ticks)), ticks, fontsize=7)
            panel.set_title(f"{title}, {KINDS['single' if kind == 'single' else 'left out']}")
            panel.set_ylabel("points")
        legend(figure, axes)
        return figure

    caption = "What it costs to choose sources by each measure: the largest gain less the largest among the best rated, mean over targets."
    return Plot("foresight", "Known beforehand", caption, draw)


def quality_plot(by_quality: pd.DataFrame) -> Plot | None:
    """Draw the mean omega of sources of each quality, with a marker per method."""
    if by_quality.empty:
        return None
    qualities = sorted(set(by_quality["quality"]), key=order)
    titles = list(dict.fromkeys(map(str, by_quality["title"])))

    def draw() -> Figure:
        figure, (axes,) = panels(1, width=1.6 + 0.9 * len(qualities), height=3.0)
        for title, look in styles(titles).items():
            line = by_quality[by_quality["title"] == title].set_index("quality").reindex(qualities)
            axes.plot(range(len(qualities)), line["omega"].to_numpy(dtype=float), label=title, **look)
        axes.set_xticks(range(len(qualities)), [quality_title(quality).replace(" the ", " the\n") for quality in qualities], fontsize=7)
        axes.set_ylabel("mean omega")
        legend(figure, [axes])
        return figure

    return Plot(
        "omega_by_quality",
        "Omega and quality of a source",
        "Mean learned coefficient of sources of each quality, over targets and seeds.",
        draw,
    )
