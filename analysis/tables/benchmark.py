"""The benchmark table: a row per method, a column per target, and the average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import pandas as pd

from analysis.errors import ResultsError
from analysis.reading.names import Family, Names
from analysis.reading.selection import Choice, Rule, check_rule, choices, natural, table_jobs, table_targets


@dataclass(frozen=True)
class Cell:
    """The result of one method on one target. Scores are fractions."""

    target: str
    scores: tuple[tuple[int, float], ...] = ()
    """Pairs (seed, test score) at the chosen learning rate, sorted by seed."""
    learning_rate: float | None = None
    validation: float | None = None
    """Mean validation score over the same seeds, by which the learning rate was chosen."""
    parameters: int | None = None
    """Transfer parameters of one job or, for a method without sources, the parameters of its own adapter."""
    joint: bool = False
    """Whether the job serves several targets, so that its parameters count once."""
    wanted: int = 0
    """How many jobs the cell should have: those of the chosen learning rate, or all if none could be chosen."""
    problems: tuple[str, ...] = ()
    """Why scores are missing: `2 failed (non-finite loss ...)`, `1 pending`."""
    set_aside: tuple[float | str, ...] = ()
    """Learning rates that were not compared, because fewer of their seeds have a score."""
    tried: int = 0
    """How many learning rates, or combinations with other values, the choice was among."""
    tuned: str = ""
    """What was chosen beside the learning rate, such as `density=0.2, weight=1`."""
    nodes: tuple[str, ...] = ()
    """The jobs with the scores."""
    jobs: tuple[str, ...] = ()
    """The `wanted` jobs, with a score or without."""
    halted: int = 0
    """How many of the `wanted` jobs ended early, because other learning rates or seeds did better."""
    halted_others: int = 0
    """How many of the target's jobs at other learning rates ended early for that reason."""
    data_warnings: tuple[str, ...] = ()
    """What was ambiguous or suspicious in the target's rows."""

    @property
    def count(self) -> int:
        """Number of seeds of the mean."""
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        """Mean over seeds. None: there is no score."""
        return fmean(score for _, score in self.scores) if self.scores else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds (n - 1). None: there are fewer than two seeds."""
        return stdev(score for _, score in self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Row:
    """One method, or one variant of a method."""

    method: str
    title: str
    family: Family
    variant: str
    cells: tuple[Cell, ...]
    """Cells in the order of the table's targets."""
    backbone: str = ""
    """The backbone, if the table has several."""

    @property
    def title_on_backbone(self) -> str:
        """The title without the backbone: what rows of several backbones have in common."""
        named = f"backbone={self.backbone}"
        if not self.variant.startswith(named):
            return self.title
        rest = self.variant.removeprefix(named).removeprefix(", ")
        return self.title.removesuffix(f" ({self.variant})") + (f" ({rest})" if rest else "")

    @property
    def is_complete(self) -> bool:
        """Whether every target has a score."""
        return all(cell.scores for cell in self.cells)

    @property
    def average(self) -> float | None:
        """Mean over the targets that have a score. It is comparable between rows only if `is_complete`."""
        means = [mean for cell in self.cells if (mean := cell.mean) is not None]
        return fmean(means) if means else None

    @property
    def average_seeds(self) -> tuple[int, ...]:
        """Seeds that all targets share. Empty for an incomplete row."""
        shared = set.intersection(*({seed for seed, _ in cell.scores} for cell in self.cells)) if self.cells else set()
        return tuple(sorted(shared))

    @property
    def tried(self) -> tuple[int, ...]:
        """How many learning rates each cell chose among: the distinct numbers, sorted. Empty if nothing was run."""
        return tuple(sorted({cell.tried for cell in self.cells} - {0}))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The jobs behind the row's cells, each once."""
        return tuple(dict.fromkeys(node for cell in self.cells for node in cell.nodes))

    @property
    def average_std(self) -> float | None:
        """Sample standard deviation of the average over targets, over the shared seeds. None: fewer than two seeds are shared."""
        averages = [fmean(dict(cell.scores)[seed] for cell in self.cells) for seed in self.average_seeds]
        return stdev(averages) if len(averages) > 1 else None

    @property
    def parameters_per_target(self) -> tuple[int | None, ...]:
        """Transfer parameters of each target's own job. None: it is not known, or the job is joint and belongs to no single target."""
        return tuple(None if cell.joint else cell.parameters for cell in self.cells)

    @property
    def parameters_total(self) -> int | None:
        """Transfer parameters of all targets together, with joint jobs counted once. None: not all are known."""
        if not self.cells or any(cell.parameters is None for cell in self.cells):
            return None
        parameters = [cell.parameters or 0 for cell in self.cells]
        return max(parameters) if any(cell.joint for cell in self.cells) else sum(parameters)


@dataclass(frozen=True)
class BenchmarkTable:
    """The table that `analysis.render` prints, with all numbers behind it."""

    title: str
    targets: tuple[str, ...]
    """Task keys, in column order."""
    target_titles: tuple[str, ...]
    metrics: tuple[str, ...]
    """Primary metric per target. Empty text if no job of the target has finished."""
    rows: tuple[Row, ...]
    rule: Rule
    split: str
    benchmark: str | None
    backbones: tuple[str, ...]
    notes: tuple[str, ...]
    """Notes on the whole table: selection, seeds, standard deviation."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row per (method, target) with the numbers behind the cell. Scores are fractions; what is missing is NaN or None.

        Columns: `method`, `title`, `variant`, `target`, `metric`, `split`, `mean`, `std`, `seeds` (how many the mean is over),
        `learning_rate`, `tried`, `validation`, `parameters`.
        """
        return pd.DataFrame(
            [
                {
                    **{"method": row.method, "title": row.title, "variant": row.variant, "target": cell.target, "metric": metric},
                    **{"split": self.split, "mean": cell.mean, "std": cell.std, "seeds": cell.count, "learning_rate": cell.learning_rate},
                    **{"tried": cell.tried, "validation": cell.validation, "parameters": cell.parameters},
                }
                for row in self.rows
                for cell, metric in zip(row.cells, self.metrics, strict=True)
            ]
        )

    def _repr_html_(self) -> str:
        from analysis.tables.render import to_html  # imported here, since it builds on this module

        return to_html(self)


_NEEDED = (
    *("node", "task", "method", "stage", "benchmark", "backbone", "state", "error", "seed", "learning_rate", "tuned"),
    *("parameters_transfer", "parameters_source", "split", "metric", "value", "primary", "stopped_by", "data_warnings", "variant"),
)


def benchmark_table(
    frame: pd.DataFrame,
    rule: Rule = "validation",
    *,
    targets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    split: str = "test",
) -> BenchmarkTable:
    """Return the benchmark table of a frame, in the form of the paper's table.

    Means and sample standard deviations are over seeds. With the rule `validation`, each method's learning rate is chosen per target by the
    mean validation score over seeds (`analysis.selection.choose_learning_rate`), without use of test scores. Jobs of a method that differ
    in more than task, seed and learning rate get rows of their own.

    Args:
        frame: As `analysis.load` returns it.
        rule: `"validation"`, a learning rate, or a learning rate per method.
        targets: Task keys in column order. None: the sweep's targets, or else the tasks of all jobs that are not only sources.
        methods: Method keys to show. None: the sweep's, or else all.
        split: Split whose scores are shown.

    Raises:
        ResultsError: The frame has no job for the table.
    """
    rule = check_rule(rule)
    sweep, names = frame.attrs.get("sweep", {}), Names.of(frame)
    columns = list(targets or table_targets(frame))
    frame = table_jobs(frame, columns, methods)
    if frame.empty:
        raise ResultsError("No job of these results fits the table's targets and methods; check the names, or run the sweep.")
    chosen = choices(frame, rule)
    # Cells are cut out of the frame hundreds of times, so only the needed columns are kept.
    frame = frame[list(_NEEDED)]
    frame["primary"] = frame["primary"].fillna(False).astype(bool)
    stages = {str(method): str(stage) for method, stage in zip(frame["method"], frame["stage"], strict=True)}
    backbones = tuple(sorted(frame["backbone"].dropna().unique()))
    rows = [
        _row(method, variant, jobs[jobs["variant"] == variant], columns, chosen, split, names, stages)
        for method in names.order_methods(stages, stages)
        for jobs in [frame[frame["method"] == method]]
        for variant in sorted(jobs["variant"].unique(), key=natural)
    ]
    if len(backbones) > 1:  # a block per backbone
        rows = sorted((replace(row, backbone=_backbone(row, frame)) for row in rows), key=lambda row: row.backbone)
    titles = tuple(names.task_title(task, columns) for task in columns)
    return BenchmarkTable(
        title=" · ".join(str(part) for part in (sweep.get("name"), *sorted(frame["backbone"].dropna().unique())) if part),
        targets=tuple(columns),
        target_titles=titles,
        metrics=tuple(_metric(frame, task) or names.primary_metric(task) for task in columns),
        rows=tuple(rows),
        rule=rule,
        split=split,
        benchmark=sweep.get("benchmark") or _only(frame["benchmark"]),
        backbones=backbones,
        notes=tuple(_notes(rows, titles, rule)),
    )


def _only(column: "pd.Series[str]") -> str | None:
    values = column.dropna().unique()
    return str(values[0]) if len(values) == 1 else None


def _backbone(row: Row, frame: pd.DataFrame) -> str:
    """Return the backbone of a row's jobs. Empty: it is not known, or they have several."""
    jobs = frame[(frame["method"] == row.method) & (frame["variant"] == row.variant)]
    return _only(jobs["backbone"]) or ""


def _metric(frame: pd.DataFrame, task: str) -> str:
    found = frame.loc[(frame["task"] == task) & frame["primary"], "metric"]
    return str(found.iloc[0]) if len(found) else ""


def _row(
    method: str,
    variant: str,
    jobs: pd.DataFrame,
    targets: Sequence[str],
    chosen: Mapping[tuple[str, str, str], Choice],
    split: str,
    names: Names,
    stages: Mapping[str, str],
) -> Row:
    title = names.method_title(method) + (f" ({variant})" if variant else "")
    cells = [_cell(target, jobs[jobs["task"] == target], chosen.get((method, variant, target), Choice(None)), split) for target in targets]
    return Row(method, title, names.method_family(method, stages[method]), variant, tuple(cells))


def _cell(target: str, jobs: pd.DataFrame, choice: Choice, split: str) -> Cell:
    if jobs.empty:
        return Cell(target, problems=("not part of this sweep",))
    primary = jobs[jobs["primary"]]
    nodes = jobs.drop_duplicates("node")
    if choice.learning_rate is not None:
        nodes = nodes[choice.picks(nodes)]
        if nodes.empty:
            return Cell(target, problems=(f"no job with learning rate {choice.learning_rate:g}",))
    chosen = primary[primary["node"].isin(nodes["node"])]
    shown = chosen[chosen["split"] == split].sort_values(["seed", "node"])
    validation = chosen[(chosen["split"] == "validation") & chosen["node"].isin(shown["node"])]
    parameters = trained_parameters(shown).dropna()
    halted = jobs.loc[jobs["stopped_by"] == "asha", "node"].drop_duplicates()
    halted_here = int(halted.isin(nodes["node"]).sum())
    return Cell(
        target,
        scores=tuple((int(seed), float(value)) for seed, value in zip(shown["seed"], shown["value"], strict=True)),
        learning_rate=choice.learning_rate,
        validation=float(validation["value"].mean()) if len(validation) else None,
        parameters=int(parameters.max()) if len(parameters) else None,
        joint=bool((nodes["stage"] == "joint").any()),
        wanted=len(nodes),
        problems=tuple(_problems(nodes, split, set(shown["node"]))),
        set_aside=choice.set_aside,
        tried=choice.tried,
        tuned=choice.tuned,
        nodes=tuple(shown["node"]),
        jobs=tuple(nodes["node"]),
        halted=halted_here,
        halted_others=len(halted) - halted_here,
        data_warnings=tuple(shown["data_warnings"].dropna().unique()),
    )


def trained_parameters(jobs: pd.DataFrame) -> "pd.Series[int]":
    """Return the transfer parameters or, for a method without sources, its own parameters, which are counted under `source`."""
    own = jobs["stage"].isin(["source", "single", "joint"]) & (jobs["parameters_transfer"] == 0)
    return jobs["parameters_transfer"].where(~own, jobs["parameters_source"])


def _problems(nodes: pd.DataFrame, split: str, scored: set[str]) -> list[str]:
    """Return one phrase for each reason why the cell's jobs lack a score, most final first."""
    phrases = []
    for state in ("failed", "blocked", "running", "pending", "succeeded"):
        those = nodes[(nodes["state"] == state) & ~nodes["node"].isin(scored)]
        if those.empty:
            continue
        what = f"without a {split} score" if state == "succeeded" else state
        errors = those["error"].dropna().unique()
        phrases.append(f"{len(those)} {what}" + (f" ({errors[0]}{', ...' if len(errors) > 1 else ''})" if len(errors) else ""))
    return phrases


def _notes(rows: Sequence[Row], titles: Sequence[str], rule: Rule) -> list[str]:
    tuned = [row.title for row in rows if _is_tuned(row)]
    chosen = [f"Chosen and counted likewise: the source or the settings of {', '.join(tuned)}."] if tuned else []
    notes = [_rule_note(rule), *chosen, *tuning_note(rows)]
    counts = {cell.count for row in rows for cell in row.cells if cell.count}
    if len(counts) == 1:
        (count,) = counts
        which = "every cell" if all(cell.count for row in rows for cell in row.cells) else "every cell with a score"
        notes.append(f"n = {count} seed{'s' if count > 1 else ''} in {which}.")
    elif counts:
        parts = []
        for position, title in enumerate(titles):
            here = sorted({row.cells[position].count for row in rows if row.cells[position].count}, reverse=True)
            parts.append(f"{title} {' or '.join(map(str, here)) or 'none'}")
        notes.append(f"Seed counts differ: n = {', '.join(parts)}.")
    if counts and max(counts) > 1:
        spread = "Mean ± sample standard deviation (n - 1) over seeds"
        notes.append(f"{spread}; the average's is over the seeds that all targets share." if len(titles) > 1 else f"{spread}.")
    return notes


def tuning_note(rows: Sequence[Row]) -> list[str]:
    """Return a note if the rows chose among different numbers of learning rates."""
    spans: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        if row.tried:
            spans.setdefault(row.tried, []).append(row.title)
    if len({number for span in spans for number in span}) < 2:
        return []
    most = max(spans, key=lambda span: len(spans[span]))
    parts = [
        f"{' or '.join(map(str, span))} ({'all others' if len(spans) > 1 and span == most else ', '.join(titles)})"
        for span, titles in sorted(spans.items(), key=lambda pair: (pair[0] == most, pair[0]))
    ]
    what = "learning rates and settings" if any(map(_is_tuned, rows)) else "learning rates"
    return [f"Rows were not tuned alike: {what} tried {', '.join(parts)}. Choosing among more favours a row."]


def _is_tuned(row: Row) -> bool:
    return any(cell.tuned for cell in row.cells)


def _rule_note(rule: Rule) -> str:
    if rule == "validation":
        how = "by mean validation score over seeds, never by test score; ties go to the smaller"
        return f"Learning rate chosen per method and target {how}. Joint methods: one for all targets."
    if isinstance(rule, (int, float)):
        return f"Learning rate fixed at {rule:g} for all methods."
    if isinstance(rule, str):
        return rule
    fixed = ", ".join(f"{method} {rate:g}" for method, rate in rule.items())
    return f"Learning rate fixed for {fixed}; for other methods chosen by validation score, never by test score."
