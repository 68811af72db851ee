"""The plot of ranks over backbones."""

from matplotlib.figure import Figure

from analysis.plots.style import Plot, legend, panels, styles
from analysis.tables.backbones import BackboneRanks


def backbone_plot(found: BackboneRanks) -> Plot:
    """Draw a line per method from backbone to backbone, the best rank on top."""

    def draw() -> Figure:
        figure, (axes,) = panels(1, width=max(4.0, 1.6 * len(found.backbones)), height=3.0)
        places = list(range(len(found.backbones)))
        for (title, look), ranks in zip(styles(list(found.titles)).items(), found.ranks, strict=True):
            axes.plot(places, ranks, label=title, **look)
        axes.set_xticks(places, list(found.backbones))
        axes.set_xlim(-0.3, len(places) - 0.7)
        axes.invert_yaxis()
        axes.set_ylabel("average rank (1 is best)")
        legend(figure, [axes])
        return figure

    caption = "Average rank of each method over the targets, on each backbone. Where lines cross, the order depends on the backbone."
    return Plot("backbones", "Ranks on each backbone", caption, draw)
