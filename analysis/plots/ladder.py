"""The plot of the ladder: score against parameters, between a single adapter and the ceiling."""

from matplotlib.figure import Figure

from analysis.plots.style import Plot, ink, legend, panels, styles
from analysis.tables.benchmark import BenchmarkTable
from analysis.tables.ladder import Ladder


def ladder_plot(found: Ladder, table: BenchmarkTable) -> Plot | None:
    """Draw the average and each target: a point per rung, and lines at the scores of foot and ceiling. None: there is no rung between."""
    titles = dict(zip(table.targets, table.target_titles, strict=True)) | {"average": "Average"}
    shown = ["average", *(target for target in found.targets if len(found.targets) > 1)]
    points = found.rungs.dropna(subset="score")
    order = list(dict.fromkeys(points["title"]))
    if len(order) < 3:
        return None

    def draw() -> Figure:
        figure, axes = panels(len(shown))
        looks = styles(order)
        for panel, target in zip(axes, shown, strict=True):
            here = points[points["target"] == target]
            for row, dash in ((found.floor, ":"), (found.ceiling, "--")):
                for level in here.loc[here["title"] == row.title, "score"]:
                    panel.axhline(100 * level, color=ink(), linewidth=1, linestyle=dash)
            for title, parameters, score in zip(here["title"], here["parameters"], here["score"], strict=True):
                look = looks[title]
                panel.plot(parameters, 100 * score, color=look["color"], marker=look["marker"], linestyle="", markersize=7, label=title)
            panel.set_xscale("symlog", linthresh=1)
            panel.set_title(titles[target])
            panel.set_xlabel("trained parameters (log scale from 1)")
            panel.set_ylabel("test score (%)")
        legend(figure, axes)
        return figure

    caption = (
        f"Mean test score over seeds against the parameters that a method trains for a target; dotted: {found.floor.title}; "
        f"dashed: {found.ceiling.title}."
    )
    return Plot("ladder", "The ladder", caption, draw)
