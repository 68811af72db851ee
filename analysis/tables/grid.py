"""The layout of a benchmark table as text cells with marks, which each format then writes in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from analysis.published import PublishedScores
from analysis.reading.names import FAMILY_TITLES, metric_title, short_name
from analysis.tables.benchmark import BenchmarkTable, Cell, Row

DIGITS = 2
SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
MISSING = "–"
INCOMPLETE = "†"


@dataclass(frozen=True)
class GridCell:
    """One cell of the printed table."""

    text: str
    spread: str = ""
    """Standard deviation, printed in smaller type after a plus-minus sign."""
    rank: int | None = None
    """1: the best in its column. 2: the second."""
    marks: str = ""
    """Footnote letters, and a dagger if an average is over fewer targets than the table has."""
    sort: float | None = None
    """The value by which a table is sorted."""
    extra: str = ""
    """A further line, with the published score and the difference."""
    jobs: tuple[str, ...] = ()
    """The jobs that the cell is about, to which a page links."""


@dataclass(frozen=True)
class GridRow:
    """One line of the printed table."""

    group: str
    cells: tuple[GridCell, ...]


@dataclass(frozen=True)
class Grid:
    """A table as it is printed."""

    title: str
    header: tuple[str, ...]
    subheader: tuple[str, ...]
    rows: tuple[GridRow, ...]
    footnotes: tuple[tuple[str, str], ...]
    """Pairs (mark, text)."""
    notes: tuple[str, ...]
    numeric: tuple[bool, ...] = field(default=())
    """Which columns are numbers and are aligned to the right."""


def printable(text: str) -> str:
    """Return a file's text in one line. Control characters, and those that change the direction of text, become their codes."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def printable_lines(text: str) -> str:
    """Do the same as `printable` for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_grid(grid: Grid) -> Grid:
    """Return the grid with every text printable, since its names and errors come from files that anyone may have written."""
    rows = tuple(
        GridRow(
            printable(row.group),
            tuple(replace(cell, text=printable(cell.text), marks=printable(cell.marks), extra=printable(cell.extra)) for cell in row.cells),
        )
        for row in grid.rows
    )
    return replace(
        grid,
        title=printable(grid.title),
        header=tuple(map(printable, grid.header)),
        subheader=tuple(map(printable, grid.subheader)),
        rows=rows,
        footnotes=tuple((mark, printable(text)) for mark, text in grid.footnotes),
        notes=tuple(map(printable, grid.notes)),
    )


def percent(fraction: float | None) -> str:
    """Return a fraction in percent: `81.23` for `0.8123`, a dash for None."""
    return MISSING if fraction is None else f"{100 * fraction:.{DIGITS}f}"


def count(number: int | None) -> str:
    """Return a number with separators: `73,728` for `73728`, a dash for None."""
    return MISSING if number is None else f"{number:,}"


def layout(table: BenchmarkTable, *, against: PublishedScores | None = None) -> Grid:
    """Return the benchmark table as a grid: methods in groups, targets, average, learning rates tried, transfer parameters.

    The best and the second of a column, on each backbone, are found by the printed digits, so that equal numbers get equal marks.
    Incomplete averages are not ranked.

    Args:
        table: The table.
        against: Published scores to put under each cell, with the difference in percentage points.
    """
    footnotes = _Footnotes()
    ranks = [_ranks_in_blocks(table, [row.cells[index].mean for row in table.rows]) for index in range(len(table.targets))]
    average_ranks = _ranks_in_blocks(table, [row.average if row.is_complete else None for row in table.rows])
    rows = []
    for position, row in enumerate(table.rows):
        cells = [GridCell(row.title_on_backbone)]
        for index, cell in enumerate(row.cells):
            extra = _beside(against, row, short_name(cell.target), cell.mean)
            cells.append(_score_cell(cell, ranks[index][position], footnotes, extra))
        average = _beside(against, row, "average", row.average) if against and _covers(against, table) and row.is_complete else ""
        cells.append(_average_cell(row, average_ranks[position], footnotes, average))
        cells.append(_tried_cell(row))
        cells.extend(_parameter_cells(row))
        rows.append(GridRow(f"{row.backbone} · {FAMILY_TITLES[row.family]}".removeprefix(" · "), tuple(cells)))
    others = "Other settings" if any(cell.tuned for row in table.rows for cell in row.cells) else "Settings"
    notes = [
        *table.notes,
        f"Rates tried: learning rates that a cell's was chosen among. {others} are not chosen: each makes a row of its own.",
        "Parameters: those trained for the target; the backbone, frozen sources and heads are not counted.",
    ]
    if against:
        notes.append(_published_note(against, table))
    return Grid(
        title=table.title,
        header=("Method", *table.target_titles, "Average", "Rates", "Parameters", "Parameters"),
        subheader=("", *map(metric_title, table.metrics), "", "tried", "per target", "in total"),
        rows=tuple(rows),
        footnotes=tuple(footnotes.entries.items()),
        notes=tuple(notes),
        numeric=(False, *[True] * (len(table.targets) + 4)),
    )


def _beside(against: PublishedScores | None, row: Row, column: str, mean: float | None) -> str:
    """Return `paper 86.50, +0.12`, or empty text if the paper has no such cell. The paper has no variants."""
    score = against.scores.get(row.method, {}).get(column) if against and not row.variant else None
    if score is None:
        return ""
    difference = "" if mean is None else f", {100 * (mean - score):+.{DIGITS}f}".replace("-", "−")
    return f"paper {percent(score)}{difference}"


def _covers(against: PublishedScores, table: BenchmarkTable) -> bool:
    """Tell whether the table's average is over the same tasks as the published one."""
    return all({short_name(target) for target in table.targets} == set(scores) - {"average"} for scores in against.scores.values())


def _published_note(against: PublishedScores, table: BenchmarkTable) -> str:
    note = f"paper: published score with {against.backbone}, and the difference in percentage points. {against.citation}"
    others = [backbone for backbone in table.backbones if backbone != against.backbone]
    return note + (f" These results are with {', '.join(others)}: the difference is no replication." if others else "")


class _Footnotes:
    """Gives each distinct text one letter, in order of first use."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def mark(self, text: str) -> str:
        for mark, known in self.entries.items():
            if known == text:
                return mark
        used = sum(1 for mark in self.entries if mark != INCOMPLETE)
        mark = SYMBOLS[used % 26] * (used // 26 + 1)
        self.entries[mark] = text
        return mark

    def dagger(self) -> str:
        self.entries.setdefault(INCOMPLETE, "Average over fewer targets than the table has: not comparable with the others and not ranked.")
        return INCOMPLETE


def _ranks_in_blocks(table: BenchmarkTable, values: Sequence[float | None]) -> list[int | None]:
    """Return the rank of each row among those of its backbone."""
    ranks: list[int | None] = [None] * len(values)
    for backbone in {row.backbone for row in table.rows}:
        places = [place for place, row in enumerate(table.rows) if row.backbone == backbone]
        for place, rank in zip(places, _ranks([values[place] for place in places]), strict=True):
            ranks[place] = rank
    return ranks


def _ranks(values: Sequence[float | None]) -> list[int | None]:
    shown = [None if value is None else round(100 * value, DIGITS) for value in values]
    levels = sorted({value for value in shown if value is not None}, reverse=True)[:2]
    # Where all are equal there is no best.
    if len(levels) < 2:
        return [None] * len(shown)
    return [levels.index(value) + 1 if value in levels else None for value in shown]


def _score_cell(cell: Cell, rank: int | None, footnotes: _Footnotes, extra: str) -> GridCell:
    marks = []
    if cell.problems and cell.wanted:
        marks.append(footnotes.mark(f"{cell.count} of {cell.wanted} jobs have a score: {'; '.join(cell.problems)}."))
    elif cell.problems:
        marks.append(footnotes.mark(f"{'; '.join(cell.problems).capitalize()}."))
    if cell.set_aside:
        rates = ", ".join(each if isinstance(each, str) else f"{each:g}" for each in cell.set_aside)
        marks.append(footnotes.mark(f"Learning rate {rates} was not compared: fewer of its seeds have a score."))
    if cell.halted or cell.halted_others:
        which = f"{cell.halted} of the {cell.wanted} jobs at the chosen learning rate, and {cell.halted_others} at others"
        marks.append(footnotes.mark(f"{which}, ended early because other jobs did better (asha)."))
    marks += [footnotes.mark(warning) for warning in cell.data_warnings]
    mean, std = cell.mean, cell.std
    return GridCell(percent(mean), "" if std is None else percent(std), rank, ",".join(marks), mean, extra, cell.jobs)


def _average_cell(row: Row, rank: int | None, footnotes: _Footnotes, extra: str) -> GridCell:
    std = row.average_std
    marks = "" if row.is_complete or row.average is None else footnotes.dagger()
    return GridCell(percent(row.average), "" if std is None else percent(std), rank, marks, row.average, extra)


def _tried_cell(row: Row) -> GridCell:
    text = " or ".join(map(str, row.tried)) or MISSING
    return GridCell(text, sort=float(row.tried[-1]) if row.tried else None)


def _parameter_cells(row: Row) -> list[GridCell]:
    each = sorted({number for number in row.parameters_per_target if number is not None})
    span = MISSING if not each else count(each[0]) if len(each) == 1 else f"{count(each[0])} to {count(each[-1])}"
    total = row.parameters_total
    return [GridCell(span, sort=float(each[-1]) if each else None), GridCell(count(total), sort=None if total is None else float(total))]
