"""Two sweeps side by side: the differences in their configuration, and the effect on the scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import ResultsError
from analysis.reading.frame import setting_columns
from analysis.reading.load import is_tracking_uri, load, locate
from analysis.reading.names import Names
from analysis.reading.selection import Rule, table_targets
from analysis.tables import statistics
from analysis.tables.benchmark import BenchmarkTable, Row, benchmark_table
from analysis.tables.grid import Grid, GridCell, GridRow, count, percent
from analysis.tables.grids import p_text, signed
from analysis.tables.render import to_markdown
from scalearn.secrets import without_secrets

MOST_VALUES = 6


@dataclass(frozen=True)
class Difference:
    """A configuration column whose values differ between the two sweeps."""

    column: str
    method: str
    """Key of the method in which the column differs, or `all`."""
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    first: str
    second: str
    configuration: tuple[Difference, ...]
    only_first: tuple[str, ...]
    """Titles of the rows that only the first sweep has."""
    only_second: tuple[str, ...]
    shared_nodes: int
    """Number of jobs that are in both sweeps. They are the same artifacts, so they cannot differ."""
    scores: pd.DataFrame
    """Columns method, target, first, second (means), difference (second minus first), low, high, n, paired, p, p_holm."""
    yaml_diff: str
    """Unified diff of the two sweep files. Empty if they are equal or not known."""
    names: Names = field(default_factory=Names)
    """Names of methods and tasks in the first sweep's results."""

    def grids(self) -> list[Grid]:
        """Return the differences in configuration and in scores, as tables to render."""
        return [grid for grid in (_configuration_grid(self), _score_grid(self)) if grid.rows]

    def markdown(self) -> str:
        """Return the comparison as one Markdown document."""
        parts = [f"# {self.first} and {self.second}", *self.sentences()]
        parts += [to_markdown(grid) for grid in self.grids()]
        if self.yaml_diff:
            parts += ["## Sweep files", f"```diff\n{self.yaml_diff}```"]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values. Scores are fractions, and null means missing."""
        scores = self.scores.astype(object).where(self.scores.notna(), None)
        return {
            "first": self.first,
            "second": self.second,
            "configuration": [asdict(entry) for entry in self.configuration],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "shared_jobs": self.shared_nodes,
            "scores": scores.to_dict("records"),
            "yaml_diff": self.yaml_diff,
        }

    def sentences(self) -> list[str]:
        """Return the comparison in sentences."""
        lines = []
        if not self.configuration:
            lines.append("The methods that both sweeps have are configured alike.")
        if self.shared_nodes:
            lines.append(f"The sweeps share {count(self.shared_nodes)} jobs, whose results are the same files.")
        for name, titles in ((self.first, self.only_first), (self.second, self.only_second)):
            if titles:
                lines.append(f"Only {name} has: {', '.join(titles)}.")
        averages = self.scores[self.scores["target"] == "average"]
        for row in averages.to_dict("records"):
            interval = "" if pd.isna(row["low"]) else f", 95% interval {signed(row['low'])} to {signed(row['high'])}"
            lines.append(f"{row['method']}: {signed(row['difference'])} points on average in {self.second}{interval}.")
        if averages.empty:
            lines.append("No method has scores on the same targets in both sweeps yet.")
        return lines


def compare(
    first: str | Path,
    second: str | Path,
    first_sweep: str | None = None,
    second_sweep: str | None = None,
    *,
    rule: Rule = "validation",
) -> Comparison:
    """Compare two sweeps.

    Args:
        first: Store, manifest or tracking URI of the first sweep, as for `analysis.load`.
        second: The same for the second sweep.
        first_sweep: Name of the first sweep, if the place does not tell it.
        second_sweep: Name of the second sweep.
        rule: How learning rates are chosen, as for `analysis.benchmark_table`.

    Raises:
        ResultsError: A sweep cannot be read, or the two have no target in common.
    """
    frames = load(first, first_sweep), load(second, second_sweep)
    names = _names(frames, (first, second))
    targets = [table_targets(frame) for frame in frames]
    common = [target for target in targets[0] if target in targets[1]]
    if not common:
        raise ResultsError(f"{names[0]} and {names[1]} have no target in common, so their scores cannot be compared.")
    tables = [benchmark_table(frame, rule, targets=common) for frame in frames]
    pairs, only = _matched(*tables)
    methods = {row.method for row, _ in pairs}
    return Comparison(
        first=names[0],
        second=names[1],
        configuration=tuple(_configuration(frames, common, methods)),
        only_first=tuple(only[0]),
        only_second=tuple(only[1]),
        shared_nodes=len(set(frames[0]["node"]) & set(frames[1]["node"])),
        scores=_scores(pairs, tables[0]),
        yaml_diff=_yaml_diff((first, second), (first_sweep, second_sweep), names),
        names=Names.of(frames[0]),
    )


def _names(frames: Sequence[pd.DataFrame], places: Sequence[str | Path]) -> tuple[str, str]:
    """Return the sweeps' names, with their stores if the names are equal."""
    shown = [without_secrets(str(place)) for place in places]
    one, two = (str(frame.attrs.get("sweep", {}).get("name") or place) for frame, place in zip(frames, shown, strict=True))
    return (one, two) if one != two else (f"{one} ({shown[0]})", f"{two} ({shown[1]})")


def _matched(one: BenchmarkTable, two: BenchmarkTable) -> tuple[list[tuple[Row, Row]], tuple[list[str], list[str]]]:
    """Return pairs of rows of the same method, and of the same variant if a sweep has several, and titles of unpaired rows."""
    pairs = []
    for row in one.rows:
        same_method = [other for other in two.rows if other.method == row.method]
        same = [other for other in same_method if other.variant == row.variant]
        alone = len(same_method) == 1 and sum(other.method == row.method for other in one.rows) == 1
        pairs += [(row, (same or same_method)[0])] if same or alone else []
    matched = {row.title for row, _ in pairs}, {row.title for _, row in pairs}
    only = ([row.title for row in one.rows if row.title not in matched[0]], [row.title for row in two.rows if row.title not in matched[1]])
    return pairs, only


def _configuration(frames: Sequence[pd.DataFrame], targets: Sequence[str], methods: set[str]) -> list[Difference]:
    """Return the columns whose sets of values differ, per method, or once for all methods if the methods agree."""
    shown = [frame[frame["task"].isin(list(targets)) & frame["backbone"].notna()].drop_duplicates(["node", "task"]) for frame in frames]
    columns = list(
        dict.fromkeys([*("learning_rate", "seed", "source_seed"), *(name for frame in frames for name in setting_columns(frame))])
    )
    found: dict[str, list[Difference]] = {}
    for method in Names.of(frames[0]).order_methods(methods):
        for column in columns:
            one, two = (_values(frame[frame["method"] == method], column) for frame in shown)
            if one != two:
                found.setdefault(column, []).append(Difference(column, method, one, two))
    merged = []
    for differences in found.values():
        same = {(entry.first, entry.second) for entry in differences}
        everywhere = len(differences) == len(methods) and len(same) == 1 and len(methods) > 1
        merged += [Difference(differences[0].column, "all", *same.pop())] if everywhere else differences
    return merged


def _values(frame: pd.DataFrame, column: str) -> str:
    if column not in frame.columns or frame.empty:
        return "none"
    values = sorted(frame[column].drop_duplicates(), key=lambda value: (pd.isna(value), str(value)))
    texts = ["none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(texts[:MOST_VALUES]) + (", ..." if len(texts) > MOST_VALUES else "")


def _scores(pairs: Sequence[tuple[Row, Row]], table: BenchmarkTable) -> pd.DataFrame:
    frames = []
    for one, two in pairs:
        # Each pair of rows makes a table. The second sweep's row comes first, since differences are second minus first.
        both = BenchmarkTable(
            *("", table.targets, table.target_titles, table.metrics), (two, one), table.rule, table.split, table.benchmark, (), ()
        )
        found = statistics.differences(both)
        means = {cell.target: cell.mean for cell in one.cells}, {cell.target: cell.mean for cell in two.cells}
        shared = [target for target in table.targets if means[0][target] is not None and means[1][target] is not None]
        for side, values in zip(("first_mean", "second_mean"), means, strict=True):
            average = sum(values[target] or 0 for target in shared) / len(shared) if shared else None
            found[side] = found["target"].map({**values, "average": average})
        frames.append(found.assign(method=one.title))
    columns = ["method", "target", "first", "second", "difference", "low", "high", "n", "paired", "p", "p_holm"]
    if not frames:
        return pd.DataFrame(columns=columns)
    scores = pd.concat(frames, ignore_index=True).drop(columns=["first", "second"])
    return scores.rename(columns={"first_mean": "first", "second_mean": "second"})[columns]


def _yaml_diff(places: Sequence[str | Path], sweeps: Sequence[str | None], names: tuple[str, str]) -> str:
    texts = []
    for place, sweep in zip(places, sweeps, strict=True):
        if is_tracking_uri(place):
            return ""
        manifest = locate(place, sweep)[1]
        texts.append(manifest.yaml if manifest else "")
    lines = unified_diff(texts[0].splitlines(), texts[1].splitlines(), names[0], names[1], n=1, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _configuration_grid(found: Comparison) -> Grid:
    rows = tuple(
        GridRow(
            "", (GridCell(entry.column.removeprefix("setting_")), GridCell(entry.method), GridCell(entry.first), GridCell(entry.second))
        )
        for entry in found.configuration
    )
    header = ("Configuration", "Method", found.first, found.second)
    return Grid("What differs in configuration", header, ("",) * 4, rows, (), (), (False,) * 4)


def _score_grid(found: Comparison) -> Grid:
    rows = []
    for entry in found.scores.to_dict("records"):
        target = "Average" if entry["target"] == "average" else found.names.task_title(str(entry["target"]))
        interval = "–" if pd.isna(entry["low"]) else f"{signed(entry['low'])} to {signed(entry['high'])}"
        means = [GridCell(percent(entry[side]), sort=entry[side]) for side in ("first", "second")]
        cells = (
            GridCell(str(entry["method"])),
            GridCell(target),
            *means,
            GridCell(signed(entry["difference"]), sort=float(entry["difference"])),
            GridCell(interval),
            GridCell(f"{entry['n']} {'pairs' if entry['paired'] else 'each'}"),
            GridCell(p_text(entry["p_holm"])),
        )
        rows.append(GridRow("", cells))
    header = ("Method", "Target", found.first, found.second, "Difference", "95% interval", "Seeds", "p (Holm)")
    note = f"Test scores in percent; difference: {found.second} minus {found.first}, in points. Averages over the targets that both have."
    return Grid("What that did to the scores", header, ("",) * 8, tuple(rows), (), (note,), (False, False, *[True] * 6))
