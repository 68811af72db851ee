"""Plots of the course of a sweep: learning curves and the Gantt chart."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import Plot, legend, panels, styles
from analysis.reading.history import Span, utilisation
from analysis.reading.names import Names, metric_title
from analysis.tables.grid import printable

_STAGES = {
    **{"source": "#0072B2", "transfer": "#E69F00", "joint": "#009E73", "single": "#56B4E9"},
    **{"similarity": "#CC79A7", "transferability": "#D55E00"},
}
_MOST_VECTORS = 1000
"""Bars that are still drawn as vectors."""


def learning_curves(history: pd.DataFrame, nodes: Sequence[str], metric: str = "loss", targets: Sequence[str] = ()) -> Plot | None:
    """Draw a validation metric over epochs: a panel per target, a line per method, bands of one standard deviation over seeds.

    Args:
        history: Result of `analysis.history.load_history`.
        nodes: Jobs to show: those behind a table's cells, so that each line has one learning rate.
        metric: `loss`, `train_loss`, or a metric's name.
        targets: Order of the panels. None: the paper's order.
    """
    shown = history[history["node"].isin(list(nodes)) & (history["metric"] == metric)]
    names = Names.of(history)
    tasks = [task for task in (targets or names.order_tasks(shown["task"])) if task in set(shown["task"])]
    if shown.empty or shown["epoch"].nunique() < 2:
        return None

    def draw() -> Figure:
        looks = styles(names.order_methods(shown["method"]))
        figure, axes = panels(len(tasks))
        for panel, task in zip(axes, tasks, strict=True):
            for method, look in looks.items():
                line = shown[(shown["task"] == task) & (shown["method"] == method)].groupby("epoch")["value"].agg(["mean", "std"])
                if line.empty:
                    continue
                epochs, mean, std = line.index.to_numpy(dtype=float), line["mean"].to_numpy(), np.nan_to_num(line["std"].to_numpy())
                panel.plot(epochs, mean, label=names.method_title(method), markevery=max(1, len(epochs) // 8), **look)
                panel.fill_between(epochs, mean - std, mean + std, color=look["color"], alpha=0.12)
            panel.set_title(names.task_title(task, tasks))
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            panel.set_ylabel(f"validation {metric_title(metric)}" if metric != "train_loss" else "training loss")
        legend(figure, axes)
        return figure

    caption = "Mean over seeds after each epoch, at the learning rates behind the table; bands: one standard deviation over seeds."
    return Plot(f"curves_{metric}", f"Learning curves: {metric_title(metric)}", caption, draw)


def gantt(spans: Sequence[Span]) -> Plot | None:
    """Draw when each job ran: a row per lane of a machine, coloured by stage. Red edges mark failures."""
    if not spans:
        return None
    lanes = sorted({(span.host, span.lane) for span in spans})
    hosts = {host for host, _ in lanes}
    begin = min(span.start for span in spans)

    def draw() -> Figure:
        figure, (axes,) = panels(1, width=7.4, height=0.9 + 0.32 * max(len(lanes), 2))
        longest = max(span.end for span in spans) - begin
        unit, name = (3600, "hours") if longest > 3 * 3600 else (60, "minutes") if longest > 180 else (1, "seconds")
        # One artist for all bars of a lane that look alike, and an image for very many: a vector each would be megabytes of a page.
        bars: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)
        rows = {lane: row for row, lane in enumerate(lanes)}
        for span in spans:
            look = (rows[span.host, span.lane], span.stage, span.state)
            bars[look].append(((span.start - begin) / unit, (span.end - span.start) / unit))
        for (row, stage, state), intervals in bars.items():
            axes.broken_barh(
                intervals,
                (row - 0.38, 0.76),
                facecolors=_STAGES.get(stage, "#999999"),
                edgecolors="#D00000" if state == "failed" else axes.get_facecolor(),
                linewidth=0.6,
                rasterized=len(spans) > _MOST_VECTORS,
            )
        labels = [printable(f"{host} {lane + 1}") if len(hosts) > 1 else str(lane + 1) for host, lane in lanes]
        axes.set_yticks(range(len(lanes)), labels)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{name} since the first start")
        axes.set_ylabel("lane")
        stages = [stage for stage in _STAGES if any(span.stage == stage for span in spans)]
        figure.legend([Patch(color=_STAGES[stage]) for stage in stages], stages, loc="outside lower center", ncols=len(stages))
        return figure

    caption = f"When each of {len(spans)} jobs ran, by stage; {utilisation(list(spans)):.0%} of the lanes' time was busy."
    return Plot("gantt", "When the jobs ran", caption, draw)
