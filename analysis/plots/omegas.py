"""Plots of what the coefficients learned: their differences from where they started, 2 / T each unless the job sets it."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.plots.scores import annotated_grid
from analysis.plots.style import Plot, panels
from analysis.reading.selection import natural
from analysis.tables.omega import HARDLY_MOVED, Omega, heat_map


def omega_heat_maps(omegas: Sequence[Omega]) -> list[Plot]:
    """Return one plot per method and variant: target x source, mean omega over layers, dimensions and seeds, minus its start."""
    return [_overall(group, name) for name, group in _groups(omegas).items()]


def omega_layer_maps(omegas: Sequence[Omega]) -> list[Plot]:
    """Return one plot per method and variant whose layers have their own omega: layer x source, minus the start, a panel per target."""
    return [_layers(group, name) for name, group in _groups([omega for omega in omegas if len(omega.layers) > 1]).items()]


def _groups(omegas: Sequence[Omega]) -> dict[str, list[Omega]]:
    """Return the omegas of each method and variant by a name for files, with methods in the paper's order."""
    order = omegas[0].names.order_methods(omega.method for omega in omegas) if omegas else []
    groups: dict[str, list[Omega]] = {}
    for omega in sorted(omegas, key=lambda omega: (order.index(omega.method), natural(omega.variant))):
        name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{omega.method} {omega.variant}").strip("_")
        groups.setdefault(name, []).append(omega)
    return groups


def _overall(omegas: Sequence[Omega], name: str) -> Plot:
    starts = {omega.task: omega.even for omega in omegas}
    table = heat_map(omegas)
    values = table.to_numpy(dtype=float) - np.array([[starts[str(task)]] for task in table.index])

    def draw() -> Figure:
        width, height = 1.4 + 0.75 * len(table.columns), 0.9 + 0.42 * len(table)
        figure, (axes,) = panels(1, width=max(width, 3.6), height=max(height, 1.6))
        rows = [omegas[0].names.task_title(str(task)) for task in table.index]
        annotated_grid(axes, values, rows, [str(source) for source in table.columns], differences=_full(omegas))
        axes.set_xlabel("source")
        axes.set_ylabel("target")
        return figure

    caption = (
        "What each source (column) gained or lost in weight for each target (row): mean coefficient over layers, dimensions and seeds, "
    )
    return Plot(f"omega_{name}", f"Learned omega: {omegas[0].title}", caption + _minus(omegas), draw)


def _layers(omegas: Sequence[Omega], name: str) -> Plot:
    groups: dict[tuple[str, tuple[str, ...]], list[Omega]] = {}
    for omega in omegas:
        groups.setdefault((omega.task, omega.sources), []).append(omega)

    def draw() -> Figure:
        layers, sources = omegas[0].by_layer.shape
        figure, axes = panels(len(groups), width=1.2 + 0.55 * sources, height=0.9 + 0.26 * layers, columns=2)
        for panel, ((task, names), group) in zip(axes, groups.items(), strict=True):
            values = np.mean([omega.by_layer for omega in group], axis=0) - group[0].even
            annotated_grid(panel, values, [str(layer + 1) for layer in range(len(values))], names, differences=_full(omegas))
            panel.set_title(omegas[0].names.task_title(task))
            panel.set_ylabel("layer")
        return figure

    caption = "What each source (column) gained or lost in weight in each layer (row): mean coefficient over dimensions and seeds, "
    return Plot(f"omega_layers_{name}", f"Learned omega by layer: {omegas[0].title}", caption + _minus(omegas), draw)


def _full(omegas: Sequence[Omega]) -> float:
    """Return the least difference of full colour: below it a source's mean says little about transfer."""
    return HARDLY_MOVED * max(abs(omega.even) for omega in omegas)


def _minus(omegas: Sequence[Omega]) -> str:
    starts = sorted({f"{omega.even:.3g}" for omega in omegas})
    return f"minus its start, {' or '.join(starts)}."
