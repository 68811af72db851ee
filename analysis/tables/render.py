"""Write a benchmark table for the terminal, and as Markdown, CSV, LaTeX and HTML."""

import csv
import io
from collections.abc import Mapping
from html import escape

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.reading.names import short_name
from analysis.tables.benchmark import BenchmarkTable
from analysis.tables.grid import Grid, GridCell, layout, printable, printable_grid

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "³": "$^{3}$",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
    "−": "$-$",
    "×": r"$\times$",
    "ω": r"$\omega$",
    "|": r"\textbar{}",
    # At the beginning of a line, an open bracket would be read as the length of the gap before the line.
    "[": "{[}",
}
_MARKDOWN = {letter: f"\\{letter}" for letter in "\\|[]*`"} | {"<": "&lt;", ">": "&gt;"}
"""Characters that would begin a column, a link, a picture or HTML."""
_FORMULA = ("=", "+", "-", "@")
"""Characters that a spreadsheet takes for the beginning of a formula."""


def to_terminal(table: BenchmarkTable | Grid, console: Console | None = None) -> None:
    """Print the table with rich: the best of a column in bold, the second underlined, footnotes below.

    A table wider than the console is printed in several parts, each with the first column, so that no number is cut.
    """
    grid, console = as_grid(table), console or Console()
    for part, columns in enumerate(_parts(grid, console.width)):
        title = grid.title if part == 0 else None
        room = [max(len(row.cells[column].spread) for row in grid.rows) if grid.rows else 0 for column in range(len(grid.header))]
        printed = Table(title=Text(title) if title else None, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
        for column in columns:
            header = Text(grid.header[column])
            if any(grid.subheader):
                header.append(f"\n{grid.subheader[column]}", style="dim")
            printed.add_column(header, justify="right" if grid.numeric[column] else "left")
        for index, row in enumerate(grid.rows):
            last = index + 1 == len(grid.rows) or grid.rows[index + 1].group != row.group
            printed.add_row(*(_rich_cell(row.cells[column], room[column]) for column in columns), end_section=last)
        console.print(printed)
    for line in _lines(grid):
        console.print(Text(line, style="dim"))


def to_markdown(table: BenchmarkTable | Grid) -> str:
    """Return the table as GitHub Markdown, with the best in bold and the second underlined (`<u>`)."""
    grid = as_grid(table)
    header = [f"{name} ({below})" if below else name for name, below in zip(grid.header, grid.subheader, strict=True)]
    lines = [_markdown_line(list(map(_markdown, header))), _markdown_line(["---:" if numeric else ":---" for numeric in grid.numeric])]
    groups = {row.group for row in grid.rows}
    previous = ""
    for row in grid.rows:
        if row.group != previous and len(groups) > 1 and row.group:
            lines.append(_markdown_line([f"*{_markdown(row.group)}*", *[""] * (len(grid.header) - 1)]))
        previous = row.group
        lines.append(_markdown_line([_markdown_cell(cell) for cell in row.cells]))
    notes = [f"- {_markdown(line)}" for line in _lines(grid)]
    title = [f"**{_markdown(grid.title)}**", ""] if grid.title else []
    return "\n".join([*title, *lines, "", *notes]) + "\n"


def to_csv(table: BenchmarkTable | Grid) -> str:
    """Return a benchmark table as CSV, with a row per (method, target) and full numbers. Other grids are written as printed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if isinstance(table, Grid):
        writer.writerow(map(spreadsheet_text, table.header))
        writer.writerows([spreadsheet_text(_plain(cell)) for cell in row.cells] for row in table.rows)
        return stream.getvalue()
    columns = ("method", "title", "family", "variant", "target", "task", "metric", "split", "mean", "std", "n")
    writer.writerow((*columns, "seeds", "scores", "learning_rate", "tuned", "tried", "validation", "parameters", "problems"))
    for row in table.rows:
        about = tuple(map(spreadsheet_text, (row.method, row.title, row.family, row.variant)))
        for cell, metric in zip(row.cells, table.metrics, strict=True):
            seeds, scores = (" ".join(str(pair[index]) for pair in cell.scores) for index in (0, 1))
            names = tuple(map(spreadsheet_text, (cell.target, short_name(cell.target), metric)))
            first = (*about, *names, table.split, cell.mean, cell.std, cell.count)
            numbers = (cell.learning_rate, cell.tuned, cell.tried, cell.validation, cell.parameters)
            writer.writerow((*first, seeds, scores, *numbers, spreadsheet_text("; ".join(cell.problems))))
        averaged = sum(1 for cell in row.cells if cell.scores)
        problem = "" if row.is_complete else f"average over {averaged} of {len(row.cells)} targets"
        seeds = " ".join(map(str, row.average_seeds))
        first = (*about, "average", "average", "", table.split, row.average, row.average_std, len(row.average_seeds))
        writer.writerow((*first, seeds, "", "", "", row.tried[0] if len(row.tried) == 1 else "", "", row.parameters_total, problem))
    return stream.getvalue()


def to_latex(table: BenchmarkTable | Grid, *, label: str = "tab:benchmark") -> str:
    """Return a `table` environment, which needs the packages booktabs and graphicx and compiles with pdflatex."""
    grid = as_grid(table)
    lines = [r"\begin{table}", r"\centering", r"\small", r"\resizebox{\textwidth}{!}{%"]
    lines += [rf"\begin{{tabular}}{{{''.join('r' if numeric else 'l' for numeric in grid.numeric)}}}", r"\toprule"]
    lines.append(_latex_line([_latex(name) for name in grid.header]))
    if any(grid.subheader):
        lines.append(_latex_line([rf"\scriptsize {_latex(name)}" if name else "" for name in grid.subheader]))
    lines.append(r"\midrule")
    groups = {row.group for row in grid.rows}
    previous = grid.rows[0].group if grid.rows else ""
    for index, row in enumerate(grid.rows):
        if row.group != previous:
            lines.append(r"\midrule")
        if len(groups) > 1 and (index == 0 or row.group != previous):
            lines.append(rf"\multicolumn{{{len(grid.header)}}}{{l}}{{\emph{{{_latex(row.group)}}}}} \\")
        previous = row.group
        lines.append(_latex_line([_latex_cell(cell) for cell in row.cells]))
    notes = " ".join(_latex(line) for line in _lines(grid))
    lines += [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{_latex(grid.title)}. {notes}}}", rf"\label{{{label}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_html(table: BenchmarkTable | Grid, places: Mapping[str, int] | None = None) -> str:
    """Return a `<figure>` with the table. Cells have `data-sort`, so that a script can sort them, but no style of their own.

    Args:
        table: The table.
        places: Number of each job in the page that the table is for, by node: cells link to their jobs, `#jobs=3,7`. None: no links.
    """
    grid = as_grid(table)
    spreads = [any(row.cells[column].spread for row in grid.rows) for column in range(len(grid.header))]
    head = "".join(
        f'<th scope="col"{" class=number" if numeric else ""}>{escape(name)}{f"<small>{escape(below)}</small>" if below else ""}</th>'
        for name, below, numeric in zip(grid.header, grid.subheader, grid.numeric, strict=True)
    )
    body = []
    groups = {row.group for row in grid.rows}
    previous = None
    for row in grid.rows:
        if row.group != previous and len(groups) > 1 and row.group:
            body.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(grid.header)}">{escape(row.group)}</th></tr>')
        previous = row.group
        links = [_link(cell, row.cells[0].text, column, places or {}) for cell, column in zip(row.cells, grid.header, strict=True)]
        body.append("<tr>" + "".join(map(_html_cell, row.cells, grid.numeric, spreads, links)) + "</tr>")
    notes = "".join(f"<li>{escape(line)}</li>" for line in _lines(grid))
    caption = f"<figcaption>{escape(grid.title)}</figcaption>" if grid.title else ""
    scroll = f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    return f"<figure>{caption}{scroll}{f'<ul class=notes>{notes}</ul>' if notes else ''}</figure>"


def as_grid(table: BenchmarkTable | Grid) -> Grid:
    """Return the grid of a benchmark table in its usual layout, or the given grid, with all its texts printable."""
    return printable_grid(table if isinstance(table, Grid) else layout(table))


def _lines(grid: Grid) -> list[str]:
    return [*(f"{mark}: {text}" for mark, text in grid.footnotes), *grid.notes]


def _parts(grid: Grid, width: int) -> list[list[int]]:
    """Return the column numbers of each part of a table that must fit into `width` characters. Each part has the first column."""
    widths = [
        max(
            len(line)
            for cell in (grid.header[column], grid.subheader[column], *(_rich_cell(row.cells[column]).plain for row in grid.rows))
            for line in cell.split("\n")
        )
        + 3
        for column in range(len(grid.header))
    ]
    parts, used = [[0]], widths[0]
    for column in range(1, len(widths)):
        if used + widths[column] > width and len(parts[-1]) > 1:
            parts.append([0])
            used = widths[0]
        parts[-1].append(column)
        used += widths[column]
    return parts


def spreadsheet_text(text: str) -> str:
    """Return a text that is safe in a spreadsheet: an apostrophe keeps text that is not a number from being computed."""
    shown = printable(text)
    try:
        float(shown)
    except ValueError:
        return f"'{shown}" if shown.startswith(_FORMULA) else shown
    return shown


def _plain(cell: GridCell) -> str:
    return cell.text + (f" ± {cell.spread}" if cell.spread else "")


def _rich_cell(cell: GridCell, room: int = 0) -> Text:
    """Return one cell, with its spread in `room` characters, so that the numbers of a column are aligned."""
    style = {1: "bold", 2: "underline"}.get(cell.rank or 0, "")
    text = Text(cell.text, style=style)
    if cell.spread:
        text.append(f" ±{cell.spread:>{room}}", style="not bold not underline dim")
    if cell.marks:
        text.append(f" {cell.marks}", style="not bold not underline yellow")
    if cell.extra:
        text.append(f"\n{cell.extra}", style="not bold not underline dim")
    return text


def _markdown(text: str) -> str:
    return "".join(_MARKDOWN.get(letter, letter) for letter in text)


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: GridCell) -> str:
    text = _markdown(cell.text)
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank or 0, text)
    spread = f" ± {cell.spread}" if cell.spread else ""
    return text + spread + (f" <sup>{cell.marks}</sup>" if cell.marks else "") + (f"<br>{_markdown(cell.extra)}" if cell.extra else "")


def _latex(text: str) -> str:
    # pdflatex knows the letters of Latin-1, and stops at others.
    return "".join(_LATEX.get(letter) or (letter if letter < "\u0100" else f"U+{ord(letter):04X}") for letter in text)


def _latex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: GridCell) -> str:
    text = _latex(cell.text)
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank or 0, text)
    spread = rf" {{\scriptsize $\pm$ {_latex(cell.spread)}}}" if cell.spread else ""
    marks = rf"\textsuperscript{{{_latex(cell.marks)}}}" if cell.marks else ""
    return text + spread + marks + (rf" {{\scriptsize ({_latex(cell.extra)})}}" if cell.extra else "")


def _link(cell: GridCell, row: str, column: str, places: Mapping[str, int]) -> str:
    """Return the opening tag of a link to a cell's jobs, which says to those who do not see the table where it stands. Empty: no link."""
    numbers = ",".join(str(places[node]) for node in cell.jobs if node in places)
    label = "" if cell.text in cell.jobs else f' aria-label="{escape(f"{cell.text}, jobs of {row}, {column}")}"'
    return f'<a href="#jobs={numbers}"{label}>' if numbers else ""


def _html_cell(cell: GridCell, numeric: bool, room: bool, link: str) -> str:
    """Return one cell. With `room`, it keeps space for a spread, which other cells of its column have, so that numbers are aligned."""
    tag = {1: "strong", 2: "u"}.get(cell.rank or 0)
    text = escape(cell.text)
    text = f"<{tag}>{text}</{tag}>" if tag else text
    spread = f"<small class=spread>{f'&nbsp;±&nbsp;{escape(cell.spread)}' if cell.spread else ''}</small>" if room else ""
    marks = f"<sup>{escape(cell.marks)}</sup>" if cell.marks else ""
    extra = f"<br><small>{escape(cell.extra)}</small>" if cell.extra else ""
    sort = "" if cell.sort is None else f' data-sort="{cell.sort!r}"'
    if not numeric:
        text = text.replace("/", "/<wbr>")
    text = f"{link}{text}</a>" if link else text
    return f"<td{' class=number' if numeric else ''}{sort}>{text}{spread}{marks}{extra}</td>"
