"""The look of every plot: Okabe and Ito's palette, which is readable in print, on a light and on a dark page, and without colour."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.tables.grid import printable_lines

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
"""Okabe and Ito (2008), without black, which cannot be seen on a dark page. Yellow, the faintest on white, comes last."""
ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#0072B2")
"""The same colours for a dark page, where blue is the faintest."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Markers, one for each colour, so that lines can be told apart without colour."""
COLORMAP = "cividis"
"""Even steps for every kind of colour vision, and in grey."""
DIVERGING = "PuOr"
"""From brown by white to purple, for differences: every kind of colour vision tells its two sides apart."""

_COMMON: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    # The same data gives the same bytes.
    "svg.hashsalt": "scalearn",
}
_INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def _theme(ink: str, paper: str, grid: str) -> dict[str, Any]:
    papers = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper)
    return _COMMON | dict.fromkeys(_INK, ink) | papers | {"grid.color": grid}


THEMES: Mapping[str, dict[str, Any]] = {"light": _theme("#1f2328", "#ffffff", "#e3e6ea"), "dark": _theme("#e6e8eb", "#1b1f24", "#343a42")}


@dataclass(frozen=True)
class Plot:
    """A plot that can be drawn in several themes."""

    name: str
    """File name without its ending."""
    title: str
    caption: str
    """What the plot shows, in one sentence. It is also the picture's alternative text."""
    draw: Callable[[], Figure]

    def render(self, file_format: str = "svg", theme: str = "light") -> bytes:
        """Return the picture as PNG or SVG bytes."""
        return self._render((file_format,), theme)[0]

    def save(self, folder: Path) -> bytes:
        """Write `<name>.png` and `<name>.svg` in the light theme, for print. Return the SVG."""
        svg, png = self._render(("svg", "png"), "light")
        (folder / f"{self.name}.png").write_bytes(png)
        (folder / f"{self.name}.svg").write_bytes(svg)
        return svg

    def _render(self, formats: Sequence[str], theme: str) -> list[bytes]:
        # One figure for all formats, since drawing takes as long as writing.
        pictures = []
        with mpl.rc_context(cast("Any", THEMES[theme])):
            figure = self.draw()
            # Names come from files, so a dollar sign in one must not begin a formula. Formulas of logarithmic axes are not drawn yet.
            for text in figure.findobj(Text):
                text.set_text(printable_lines(text.get_text()))
                if "$" in text.get_text():
                    text.set_parse_math(False)
            for file_format in formats:
                stream = io.BytesIO()
                figure.savefig(stream, format=file_format, metadata={"Date": None} if file_format == "svg" else {"Software": None})
                pictures.append(stream.getvalue())
        return pictures


def ink() -> Any:
    """Return the colour of text in the current theme."""
    return mpl.rcParams["text.color"]


def is_light(colour: Any) -> bool:
    """Tell whether dark text is easier to read than white text on a colour, by the contrast that WCAG defines."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in mpl.colors.to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19


def styles(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour and marker per key, the same for the same keys in the same order. After seven, the line style changes too."""
    palette = ON_DARK if mpl.rcParams["axes.facecolor"] == THEMES["dark"]["axes.facecolor"] else OKABE_ITO
    count = len(palette)
    dashes = ("-", "--", ":", "-.")
    return {
        key: {"color": palette[index % count], "marker": MARKERS[index % count], "linestyle": dashes[index // count % len(dashes)]}
        for index, key in enumerate(keys)
    }


def panels(count: int, *, width: float = 3.2, height: float = 2.6, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels in rows of at most `columns`."""
    across = min(count, columns)
    down = -(-count // across)
    figure = Figure(figsize=(width * across + 0.6, height * down + 0.4))
    return figure, [figure.add_subplot(down, across, index + 1) for index in range(count)]


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Draw one legend below all panels, with each label once."""
    found: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(len(found), 4))
