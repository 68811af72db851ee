"""Which jobs are behind a cell of the table, by variants of a method, by the learning rate and by what else validation chooses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.errors import ResultsError
from analysis.reading.frame import COLUMNS, distinct, setting_columns
from analysis.reading.names import Names

FIRST = ("backbone", "source_count", "sources", "select", "source_quality", "few_shot", "train_share", "train_rows")
"""Columns that name a variant best. Settings come next, then all other columns."""

BEFOREHAND = ("similarity", "transferability")
"""Stages of jobs that train nothing."""

Rule = str | float | Mapping[str, float]
"""`"validation"`, or one learning rate for all methods (a number, or text such as `"6e-3"`), or one per method."""


@dataclass(frozen=True)
class Choice:
    """The learning rate of one cell, and how it was chosen."""

    learning_rate: float | None
    """None: no learning rate has a score."""
    set_aside: tuple[float | str, ...] = ()
    """Learning rates that were not compared, because fewer of their seeds have a score. As text if a method chooses more."""
    tried: int = 0
    """How many learning rates, or combinations with other values, the choice was among: those compared, and those that failed."""
    tuned: str = ""
    """What was chosen beside the learning rate, as in the frame's column `tuned`. Empty: nothing."""

    def picks(self, jobs: pd.DataFrame) -> "pd.Series[bool]":
        """Tell which of a cell's rows are those of the choice."""
        return (jobs["learning_rate"] == self.learning_rate) & (jobs["tuned"].fillna("") == self.tuned)


def check_rule(rule: Rule) -> Rule:
    """Return the rule, with text turned into numbers.

    Raises:
        ResultsError: It is neither `validation` nor a number.
    """
    if isinstance(rule, str) and rule != "validation":
        try:
            return float(rule)
        except ValueError:
            raise ResultsError(f"Unknown selection rule {rule!r}; use `validation` or a learning rate such as 6e-3.") from None
    return rule


def table_targets(frame: pd.DataFrame) -> list[str]:
    """Return the table's columns: the sweep's targets, or else the tasks of all jobs that are not only sources."""
    listed = frame.attrs.get("sweep", {}).get("targets")
    wanted = frame[~frame["stage"].isin(["source", *BEFOREHAND])]
    return list(listed or Names.of(frame).order_tasks((wanted if len(wanted) else frame)["task"].dropna()))


def table_jobs(frame: pd.DataFrame, targets: Sequence[str], methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows of a frame for a table, each once, with a column `variant`.

    Args:
        frame: As `analysis.load` returns it.
        targets: Task keys.
        methods: Method keys. None: the sweep's, or else all.
    """
    methods = methods or frame.attrs.get("sweep", {}).get("methods") or list(frame["method"].unique())
    frame = distinct(frame.drop(columns="variant", errors="ignore"))
    frame = frame[~frame["stage"].isin(BEFOREHAND) & frame["task"].isin(list(targets)) & frame["method"].isin(list(methods))]
    frame = frame.assign(tuned=frame["tuned"].fillna(""))
    nodes = frame.drop_duplicates(["node", "task"])
    nodes = nodes.assign(variant=variants(nodes))
    return frame.merge(nodes[["node", "task", "variant"]], on=["node", "task"], how="left")


def choices(jobs: pd.DataFrame, rule: Rule) -> dict[tuple[str, str, str], Choice]:
    """Return the choice of every cell of a table, by method, variant and task.

    Args:
        jobs: As `table_jobs` returns them.
        rule: As `check_rule` returns it.
    """
    found: dict[tuple[str, str, str], Choice] = {}
    for (method, variant), row in jobs.groupby(["method", "variant"]):
        # One joint job serves all targets, so all have its learning rate.
        joint = (row["stage"] == "joint").any()
        shared = choose_learning_rate(row, rule, str(method)) if joint else None
        for task, cell in row.groupby("task"):
            found[str(method), str(variant), str(task)] = shared or choose_learning_rate(cell, rule, str(method))
    return found


def mark_chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with the columns `chosen` and `tried`, as the sweep's table chooses by validation."""
    jobs = table_jobs(frame, table_targets(frame))
    found = choices(jobs, "validation")
    marks: dict[tuple[str, str], tuple[bool, int]] = {}
    for (method, variant, task), cell in jobs.drop_duplicates(["node", "task"]).groupby(["method", "variant", "task"]):
        choice = found[str(method), str(variant), str(task)]
        for node, picked in zip(cell["node"], choice.picks(cell), strict=True):
            marks[str(node), str(task)] = (bool(picked), choice.tried)
    pairs = [marks.get((node, task), (False, None)) for node, task in zip(frame["node"], frame["task"], strict=True)]
    for index, column in enumerate(("chosen", "tried")):
        frame[column] = pd.Series([pair[index] for pair in pairs], index=frame.index, dtype=COLUMNS[column][0])
    return frame


def choose_learning_rate(jobs: pd.DataFrame, rule: Rule, method: str) -> Choice:
    """Return the learning rate of one method on one target (for a joint method, on all). Test scores are never used.

    Rule `validation` takes the highest mean over seeds of the primary metric on the validation split, and on a tie the smaller learning
    rate. Only the learning rates with the most scored seeds are compared, so that one whose bad seeds crashed cannot win by the others.
    What else a method chooses (`tuned`) is chosen in the same way, under a fixed learning rate too.

    Args:
        jobs: Rows of the method's jobs on the target, or for a joint method on all targets. Other splits and metrics are ignored.
        rule: As `check_rule` returns it.
        method: The method's key, for a rule with one learning rate per method.
    """
    if isinstance(rule, Mapping):
        rule = rule.get(method, "validation")
    fixed = None if isinstance(rule, str) else float(rule)
    if fixed is not None:
        jobs = jobs[jobs["learning_rate"] == fixed]
    ended = set(_candidates(jobs[jobs["state"].isin(["succeeded", "failed"])]))
    failed = set(_candidates(jobs[jobs["state"] == "failed"]))
    scored = jobs[jobs["primary"].fillna(False).astype(bool) & (jobs["split"] == "validation") & jobs["value"].notna()]
    scores: dict[tuple[float, str], list[float]] = {}
    for candidate, value in zip(_candidates(scored), scored.loc[scored["learning_rate"].notna(), "value"], strict=True):
        scores.setdefault(candidate, []).append(float(value))
    if not scores:
        return Choice(fixed, tried=len(ended))
    most = max(map(len, scores.values()))
    # Rounding keeps floating-point noise from deciding between equal means.
    means = {each: round(fmean(scores[each]), 12) for each in sorted(scores, key=_first) if len(scores[each]) == most}
    rate, tuned = max(means, key=lambda each: means[each])
    aside = tuple(f"{label} at {each:g}" if label else each for each, label in sorted(ended - set(means), key=_first))
    return Choice(rate, aside, len(set(means) | failed), tuned)


def _candidates(jobs: pd.DataFrame) -> list[tuple[float, str]]:
    """Return the learning rate of each row that has one, with what else was chosen."""
    known = jobs[jobs["learning_rate"].notna()]
    return [(float(rate), str(tuned)) for rate, tuned in zip(known["learning_rate"], known["tuned"].fillna(""), strict=True)]


def _first(candidate: tuple[float, str]) -> tuple[float, list[tuple[bool, float, str]]]:
    rate, tuned = candidate
    return rate, natural(tuned)


def variants(nodes: pd.DataFrame) -> "pd.Series[str]":
    """Return a label per row that tells apart jobs of one method that differ in more than task, seed, learning rate and what is tuned.

    A configuration column enters a method's labels if it has several values among the method's jobs on one task. The label is empty if
    there is nothing to tell apart. `source_seed` enters only if it differs between jobs of equal seed and learning rate.

    Args:
        nodes: One row per (node, task), with a unique index. Jobs of unknown configuration (no `backbone`) get the label of the method's
            only variant, or `?` if there are several.
    """
    labels = pd.Series("", index=nodes.index, dtype="str")
    configured = nodes[nodes["backbone"].notna()]
    for method, group in configured.groupby("method"):
        columns = _telling(group)
        if columns:
            labels.loc[group.index] = group[columns].apply(lambda row: ", ".join(_describe(name, row[name]) for name in row.index), axis=1)
        unknown = nodes.index[(nodes["method"] == method) & nodes["backbone"].isna()]
        labels.loc[unknown] = "?" if columns else ""
    return labels


def natural(label: str) -> list[tuple[bool, float, str]]:
    """Return a sort key that puts `few_shot=4` before `few_shot=16`."""
    return [(part[0].isdigit(), float(part) if part[0].isdigit() else 0.0, part) for part in re.findall(r"\d+(?:\.\d+)?|\D+", label)]


def _telling(group: pd.DataFrame) -> list[str]:
    """Return the fewest columns, in order of interest, that tell the jobs of one task apart."""
    columns = [column for column in setting_columns(group) if _varies(group, column, ["task", "tuned"])]
    if _varies(group, "source_seed", ["task", "tuned", "seed", "learning_rate"]):
        columns.append("source_seed")
    columns.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST) + (not name.startswith("setting_")))
    kept: list[str] = []
    for column in columns:
        # A column that follows from those before it (for example a backbone's origin from its name) tells nothing more.
        if _varies(group, column, ["task", "tuned", *kept]):
            kept.append(column)
    return kept


def _varies(group: pd.DataFrame, column: str, by: list[str]) -> bool:
    # A field newer than some records has no value there. They were trained with its default, so this is no difference.
    younger = column not in COLUMNS and not column.startswith("setting_")
    return bool((group.groupby(by, dropna=False)[column].nunique(dropna=younger) > 1).any())


def _describe(name: str, value: Any) -> str:
    shown = "none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.removeprefix('setting_')}={shown}"
