"""Plots, each a `Plot` that draws itself in a light or a dark theme and saves as PNG and SVG."""

from analysis.plots.omegas import omega_heat_maps, omega_layer_maps
from analysis.plots.pareto import pareto_plot
from analysis.plots.progress import gantt, learning_curves
from analysis.plots.scores import critical_difference, efficiency, probing_grid, score_against
from analysis.plots.style import Plot

__all__ = [
    "Plot",
    "critical_difference",
    "efficiency",
    "gantt",
    "learning_curves",
    "omega_heat_maps",
    "omega_layer_maps",
    "pareto_plot",
    "probing_grid",
    "score_against",
]
