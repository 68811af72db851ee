"""Read CSV, TSV and JSON files. Texts and labels stay exactly as they are in the file.

Only the standard library is used, so that planning can read files too.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from scalearn.errors import UserError
from scalearn.tasks.columns import needed_columns, refuse_other_separator
from scalearn.tasks.spelling import shown
from scalearn.tasks.task import Task

TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".json")

_FOREIGN = {
    b"\xff\xfe\0\0": "is UTF-32; write it again as UTF-8",
    b"\0\0\xfe\xff": "is UTF-32; write it again as UTF-8",
    b"\xff\xfe": "is UTF-16; write it again as UTF-8",
    b"\xfe\xff": "is UTF-16; write it again as UTF-8",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"\xfd7zXZ": "is compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it",
    b"PK\3\4": "is a zip archive or a spreadsheet; unpack it, or write it as CSV",
    b"PAR1\x15": "is a parquet file; name it .parquet",
    b"ARROW1\0\0": "is an Arrow file; write it as parquet",
}
"""The first bytes of files in other formats, and their format. If one begins like another, the longer comes first."""

csv.field_size_limit(2**31 - 1)  # a text may exceed the module's limit of 131,072 characters


_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class TextFile:
    """The part of one file that a task reads."""

    names: tuple[str, ...]
    """Names of all columns in the file."""
    columns: Mapping[str, list[Any]]
    """The columns that the task reads: texts and labels as text, or None if the file has null; a list of labels as a list of texts; columns
    that are neither text nor label as they were parsed."""
    warnings: tuple[str, ...] = ()
    """What is ambiguous in the file, in one sentence each."""


@dataclass(frozen=True)
class _Table:
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    """The line of the file, counted from 1, at which each row begins."""

    @property
    def uneven(self) -> int | None:
        """Number of the first row whose number of fields differs from the header's."""
        return next((number for number, row in enumerate(self.rows) if len(row) != len(self.header)), None)


def read_text_file(task: Task, path: Path) -> TextFile:
    """Return the columns of a CSV, TSV, JSON or JSON lines file that a task reads.

    Args:
        task: The task.
        path: The file. Its ending tells the format.

    Raises:
        UserError: It is not UTF-8, or not in its format. Rows are counted from 0, lines from 1.
        OSError: It cannot be read.
    """
    where = f"Task {task.key}: {path}"
    names: Sequence[str]
    columns: dict[str, list[Any]]
    warnings: tuple[str, ...] = ()
    _refuse_foreign(where, path)
    if path.suffix in (".csv", ".tsv"):
        table, warnings = (_tab_separated if path.suffix == ".tsv" else _comma_separated)(task, where, path)
        names = table.header
        columns = {name: [row[names.index(name)] for row in table.rows] for name in needed_columns(task) if name in names}
        columns |= {name: _whole_numbers(columns[name]) for name in task.other_columns if name in columns}
    else:
        rows = _json_rows(where, path)
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in needed_columns(task) if name in names}
        for name in set(columns).difference(task.other_columns):
            for number, value in enumerate(columns[name]):
                if not isinstance(value, str):
                    columns[name][number] = _as_text(f"{where}, row {number}: column {name!r}", value)
    _check_characters(where, "header", names)
    for name, values in columns.items():
        if names.count(name) > 1:
            raise UserError(f"{where} has {names.count(name)} columns named {name!r}; give each a name of its own.")
        _check_characters(where, f"column {name!r}", values)
    return TextFile(tuple(names), columns, warnings)


def refuse_characters(place: str, what: str, text: str) -> None:
    """Refuse a text that is damaged or was not UTF-8.

    Args:
        place: Task, file and row.
        what: What the text is.
        text: Text decoded with the error handler `surrogateescape`, so that a byte that is not UTF-8 is half a surrogate pair.

    Raises:
        UserError: It has NUL bytes, a byte that is not UTF-8, or half a character.
    """
    if "\0" in text:
        raise UserError(f"{place}: its {what} holds NUL bytes, so it is damaged or not UTF-8; write the file again as UTF-8.")
    wrong = None if text.isascii() else re.search("[\ud800-\udfff]", text)
    if wrong and "\udc80" <= wrong[0] <= "\udcff":
        raise UserError(
            f"{place}: byte 0x{ord(wrong[0]) - 0xDC00:02X} in its {what} is not UTF-8, as in files in Latin-1 or Windows-1252; "
            "write the file again as UTF-8."
        )
    if wrong:
        raise UserError(f"{place}: its {what} holds half a character (\\u{ord(wrong[0]):04x}); write the text again.")


def _refuse_foreign(where: str, path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(8)
    for sign, sentence in _FOREIGN.items():
        if beginning.startswith(sign):
            raise UserError(f"{where} {sentence}.")


def _open(path: Path, newline: str | None) -> TextIO:
    # A byte that is not UTF-8 becomes half a surrogate pair, by which `refuse_characters` finds it and its row.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _table(where: str, path: Path, **dialect: Any) -> _Table:
    """Return the rows of a table. Empty lines are not rows."""
    rows, lines = [], []
    with _open(path, newline="") as file:
        reader = csv.reader(file, strict=True, **dialect)
        begins = 1
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(begins)
                begins = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{where}, line {begins}: a quotation mark opens a field and is not closed at its end ({error}); "
                "write a mark inside a quoted field twice, and quote fields that begin with one."
            ) from None
    if not rows:
        return _Table([], [], [])
    _check_characters(where, "header", rows[0])
    return _Table(rows[0], rows[1:], lines[1:])


def _comma_separated(task: Task, where: str, path: Path) -> tuple[_Table, tuple[str, ...]]:
    """Read a comma-separated file, with a warning if stray quotation marks may have joined rows."""
    table = _table(where, path)
    refuse_other_separator(task, where, table.header, ",")
    _refuse_uneven(where, table, "quote fields that hold commas")
    inside = list(_rows_inside_fields(task, table))
    if not inside:
        return table, ()
    return table, (
        f"Task {task.key}: {len(inside)} lines inside quoted fields of {path.name} look like rows of their own, the first in row "
        f"{inside[0]} (line {table.lines[inside[0]]}); if quotation marks only begin or end texts there, write them twice and quote "
        "those fields.",
    )


def _rows_inside_fields(task: Task, table: _Table) -> Iterator[int]:
    """Find rows within quoted fields: lines with as many fields as the header, and with a label that other rows have.

    If one text begins with a quotation mark and a later one ends with one, all rows between become one field.
    """
    if table.header.count(task.label_column) != 1:
        return
    place = table.header.index(task.label_column)
    broken = [number for number, row in enumerate(table.rows) if any(_LINE_END.search(field) for field in row)]
    if not broken:
        return
    skipped = set(broken)
    labels = {row[place] for number, row in enumerate(table.rows) if number not in skipped}
    for number in broken:
        for line in itertools.chain.from_iterable(_LINE_END.split(field) for field in table.rows[number] if _LINE_END.search(field)):
            fields = next(csv.reader([line]), [])
            if len(fields) == len(table.header) and fields[place] in labels:
                yield number


def _tab_separated(task: Task, where: str, path: Path) -> tuple[_Table, tuple[str, ...]]:
    """Read a tab-separated file without quoting, unless it must have been written with quoting."""
    plain = _table(where, path, delimiter="\t", quoting=csv.QUOTE_NONE)
    enclosed = [field for row in plain.rows for field in row if field.startswith('"') and field.endswith('"') and len(field) > 1]
    if quoted := _surely_quoted(where, path, plain, enclosed):
        return quoted, ()
    refuse_other_separator(task, where, plain.header, "\t")
    _refuse_uneven(where, plain, "a field cannot hold a tab or a line break, so write such texts as CSV or JSON lines")
    if not enclosed:
        return plain, ()
    return plain, (
        f"Task {task.key}: the quotation marks around {len(enclosed)} fields of {path.name} stay part of them, "
        "since tab-separated files know no quoting; if they only enclose the fields, write the file as CSV.",
    )


def _surely_quoted(where: str, path: Path, plain: _Table, enclosed: Sequence[str]) -> _Table | None:
    """Return the table as read with quoting, if the header is quoted, quoted fields double their marks, or rows are uneven without."""
    header_quoted = all(name.startswith('"') for name in plain.header)
    doubled = any('""' in field[1:-1] for field in enclosed)
    if not (header_quoted or doubled or plain.uneven is not None):
        return None
    try:
        quoted = _table(where, path, delimiter="\t")
    except UserError:
        return None
    if quoted.uneven is not None or not (header_quoted or plain.uneven is not None or len(quoted.rows) == len(plain.rows)):
        return None
    return quoted


def _refuse_uneven(where: str, table: _Table, advice: str) -> None:
    if (number := table.uneven) is not None:
        raise UserError(
            f"{where}, row {number} (line {table.lines[number]}) has {len(table.rows[number])} fields "
            f"where the header has {len(table.header)}; {advice}."
        )


def _whole_numbers(values: list[Any]) -> list[Any]:
    return [int(value) for value in values] if all(re.fullmatch(r"-?\d{1,18}", value) for value in values) else values


def _json_rows(where: str, path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the objects of a file: one per line, or all in one array."""
    with _open(path, newline=None) as file:
        lines = filter(str.strip, file)
        first = next(lines, "")
        if not first:
            return []
        if first.lstrip().startswith("[") or not _is_whole(first):
            document = _parsed(where, first + file.read())
            rows = document if isinstance(document, list) else [document]
        else:
            rows = [_parsed(f"{where}, row {number}", line) for number, line in enumerate(itertools.chain([first], lines))]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{where}, row {number} is no object; write one object per row, with a key per column.")
    if len(rows) == 1 and rows[0] and all(isinstance(value, (dict, list)) for value in rows[0].values()):
        raise UserError(f"{where} holds columns, not rows; with pandas, write it by to_json(path, orient='records', lines=True).")
    return rows


def _is_whole(line: str) -> bool:
    """Tell whether a line is JSON by itself. The first line of an indented document is not."""
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # too long a number, or too deep: reading the row will refuse it
        return True
    return True


def _parsed(where: str, text: str) -> Any:
    try:
        # Numbers with a point stay as written. NaN is what pandas and json write for a missing value.
        return json.loads(text, parse_float=str, parse_constant=_constant, object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{where} is nested too deeply; a row is one object, with a text or a number per column.") from None
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({str(error).rstrip('.')}); write one object per line, or one array of objects.") from None


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {shown(name)} stands in one object twice")
        found[name] = value
    return found


def _as_text(where: str, value: Any) -> Any:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list() if not any(isinstance(each, (list, dict)) for each in value):
            return [_as_text(where, each) for each in value]
    raise UserError(
        f"{where} holds {'a list of lists' if isinstance(value, list) else 'an object'}; give a text, a number or a list of such."
    )


def _check_characters(where: str, what: str, values: Sequence[Any]) -> None:
    for row, value in enumerate(values):
        for text in _texts(value):
            place = where if what == "header" else f"{where}, row {row}"
            refuse_characters(place, what, text)


def _texts(value: Any) -> Iterator[str]:
    for each in value if isinstance(value, list) else (value,):
        if isinstance(each, str):
            yield each
