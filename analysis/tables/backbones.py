"""Do methods rank alike on several backbones?"""

from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.tables.benchmark import BenchmarkTable, Row
from analysis.tables.grid import Grid, GridCell, GridRow
from analysis.tables.grids import p_text


@dataclass(frozen=True)
class BackboneRanks:
    """Average ranks over targets within each backbone (1 is best), of the methods that have all scores on all of them."""

    backbones: tuple[str, ...]
    titles: tuple[str, ...]
    """The methods, best first by their mean rank over backbones."""
    ranks: npt.NDArray[np.float64]
    """`[methods, backbones]`"""

    @property
    def correlation(self) -> float | None:
        """Mean Spearman correlation over pairs of backbones. None: there are fewer than three methods, or all tie on a backbone."""
        pairs = [stats.spearmanr(one, two).statistic for one, two in combinations(self.ranks.T, 2)] if self.tells else []
        return float(fmean(map(float, pairs))) if pairs else None

    @property
    def friedman_p(self) -> float | None:
        """p of Friedman's test that the methods rank alike, with backbones in place of targets. None: as for `correlation`."""
        return float(stats.friedmanchisquare(*-self.ranks).pvalue) if self.tells else None

    @property
    def tells(self) -> bool:
        """Whether there is an order on each backbone that can be compared."""
        return len(self.titles) > 2 and bool((np.ptp(self.ranks, axis=0) > 0).all())


def blocks(table: BenchmarkTable) -> list[BenchmarkTable]:
    """Return a table for each backbone, whose titles do not name it. A table of one backbone stays as it is."""
    if not any(row.backbone for row in table.rows):
        return [table]
    return [_block(table, backbone) for backbone in table.backbones if any(row.backbone == backbone for row in table.rows)]


def _block(table: BenchmarkTable, backbone: str) -> BenchmarkTable:
    rows = [replace(row, title=row.title_on_backbone, backbone="") for row in table.rows if row.backbone == backbone]
    return replace(table, rows=tuple(rows), backbones=(backbone,))


def backbone_ranks(table: BenchmarkTable) -> BackboneRanks | None:
    """Return how methods rank on each backbone. None: there are not two backbones with two methods in common."""
    parts = blocks(table)
    complete = [{row.title: row for row in part.rows if row.is_complete} for part in parts]
    common = [title for title in complete[0] if all(title in rows for rows in complete)]
    if len(parts) < 2 or len(common) < 2:
        return None
    ranks = np.stack([_ranks([rows[title] for title in common]) for rows in complete], axis=1)
    order = np.argsort(ranks.mean(axis=1), kind="stable")
    return BackboneRanks(tuple(part.backbones[0] for part in parts), tuple(common[place] for place in order), ranks[order])


def _ranks(rows: list[Row]) -> npt.NDArray[np.float64]:
    means = np.array([[cell.mean for cell in row.cells] for row in rows], dtype=np.float64)
    return np.asarray(stats.rankdata(-means, axis=0).mean(axis=1), dtype=np.float64)


def backbone_grid(found: BackboneRanks) -> Grid:
    """Return the ranks as a table: a row per method, a column per backbone."""
    rows = []
    for title, ranks in zip(found.titles, found.ranks, strict=True):
        numbers = [GridCell(f"{rank:.2f}", sort=float(rank)) for rank in (*ranks, ranks.mean())]
        rows.append(GridRow("", (GridCell(title), *numbers)))
    note = "Average ranks over the targets within each backbone, 1 is best; methods with all scores on all backbones only."
    header = ("Method", *found.backbones, "Mean")
    return Grid("Ranks on each backbone", header, ("",) * len(header), tuple(rows), (), (note,), (False, *[True] * (len(header) - 1)))


def sentence(found: BackboneRanks) -> str:
    """Return whether backbones agree, in one Markdown sentence with its numbers."""
    count, methods = len(found.backbones), len(found.titles)
    first = [found.titles[int(place)] for place in found.ranks.argmin(axis=0)]
    best = "; ".join(f"{backbone}: {title}" for backbone, title in zip(found.backbones, first, strict=True))
    if found.correlation is None:
        return f"**Backbones.** {methods} methods have all scores on {count} backbones: too few to compare their order. Best on {best}."
    sure = "tell" if (found.friedman_p or 1.0) < 0.05 else "do not tell"
    return (
        f"**Backbones.** The order of {methods} methods agrees between {count} backbones with a mean rank correlation of "
        f"{found.correlation:.2f}".replace("-", "−")
        + f"; {count} backbones {sure} the methods' ranks apart (Friedman p {_p(found.friedman_p)}). Best rank on {best}."
    )


def _p(p: float | None) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
