"""Plots of the learned coefficients."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.names import method_title, order_methods, task_title
from analysis.omega import Omega, heat_map
from analysis.plots.scores import annotated_grid
from analysis.plots.style import Plot, panels


def omega_heat_maps(omegas: Sequence[Omega]) -> list[Plot]:
    """One plot per method: mean omega, target x source, over layers, dimensions and seeds."""
    return [_overall(omegas, method) for method in order_methods(omega.method for omega in omegas)]


def omega_layer_maps(omegas: Sequence[Omega]) -> list[Plot]:
    """One plot per method whose layers have their own omega: layer x source, a panel per target."""
    methods = order_methods(omega.method for omega in omegas if omega.values.shape[0] > 1)
    return [_layers([omega for omega in omegas if omega.method == method], method) for method in methods]


def _overall(omegas: Sequence[Omega], method: str) -> Plot:
    table = heat_map(omegas, method)

    def draw() -> Figure:
        width, height = 1.4 + 0.75 * len(table.columns), 0.9 + 0.42 * len(table)
        figure, (axes,) = panels(1, width=max(width, 3.6), height=max(height, 1.6))
        annotated_grid(
            axes, table.to_numpy(dtype=float), [task_title(str(task)) for task in table.index], [str(name) for name in table.columns]
        )
        axes.set_xlabel("source")
        axes.set_ylabel("target")
        return figure

    title = f"Learned omega: {method_title(method)}"
    return Plot(
        f"omega_{method}", title, "Mean coefficient of each source (column) for each target (row), over layers, dimensions and seeds.", draw
    )


def _layers(omegas: Sequence[Omega], method: str) -> Plot:
    groups: dict[tuple[str, tuple[str, ...]], list[Omega]] = {}
    for omega in omegas:
        groups.setdefault((omega.task, omega.sources), []).append(omega)

    def draw() -> Figure:
        layers, sources = omegas[0].by_layer.shape
        figure, axes = panels(len(groups), width=1.2 + 0.55 * sources, height=0.9 + 0.26 * layers, columns=2)
        for panel, ((task, names), group) in zip(axes, groups.items(), strict=True):
            values = np.mean([omega.by_layer for omega in group], axis=0)
            annotated_grid(panel, values, [str(layer + 1) for layer in range(len(values))], names)
            panel.set_title(task_title(task))
            panel.set_ylabel("layer")
        return figure

    title = f"Learned omega by layer: {method_title(method)}"
    return Plot(
        f"omega_layers_{method}", title, "Mean coefficient of each source (column) in each layer (row), over dimensions and seeds.", draw
    )
