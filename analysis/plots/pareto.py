"""The plot of score against parameters, with the Pareto front."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots.style import Plot, ink, legend, panels, styles
from analysis.reading.names import Names
from analysis.tables.pareto import weighed_trials


def pareto_plot(frame: pd.DataFrame) -> Plot | None:
    """Draw every trial by its parameters and its validation score, and the front as a line. None: the sweep does not weigh parameters."""
    trials = weighed_trials(frame)
    if trials is None:
        return None
    names = Names.of(frame)
    tasks, methods = list(trials["task"].unique()), names.order_methods(trials["method"])

    def draw() -> Figure:
        figure, axes = panels(len(tasks))
        looks = styles(methods)
        for panel, task in zip(axes, tasks, strict=True):
            here = trials[trials["task"] == task]
            front = here[here["front"]].sort_values("parameters")
            panel.plot(front["parameters"], 100 * front["score"], color=ink(), linewidth=1, linestyle=":", label="Pareto front")
            for method in methods:
                points = here[here["method"] == method]
                look = {"color": looks[method]["color"], "marker": looks[method]["marker"], "linestyle": ""}
                panel.plot(points["parameters"], 100 * points["score"], label=names.method_title(method), **look)
            panel.set_xscale("log")
            panel.set_title(names.task_title(task, tasks))
            panel.set_xlabel("trained parameters (log scale)")
            panel.set_ylabel("validation score (%)")
        legend(figure, axes)
        return figure

    caption = (
        "Mean validation score over seeds of every trial against its trained parameters; the line joins those that no other beats in both."
    )
    return Plot("pareto", "Score against parameters", caption, draw)
