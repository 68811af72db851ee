"""Which jobs stand behind a cell of the table: variants of a method, and the learning rate."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.errors import ResultsError
from analysis.frame import COLUMNS, setting_columns

FIRST = ("backbone", "source_count", "sources", "few_shot", "train_share", "train_rows")
"""Columns that name a variant best; settings come next, then everything else."""

Rule = str | float | Mapping[str, float]
"""`"validation"`, or a fixed learning rate for all methods (a number, or text such as `"6e-3"`), or one per method."""


@dataclass(frozen=True)
class Choice:
    """The learning rate of one cell and how it came about."""

    learning_rate: float | None
    """None where no learning rate has a score."""
    set_aside: tuple[float, ...] = ()
    """Learning rates that were not compared because fewer of their seeds have a score."""


def check_rule(rule: Rule) -> Rule:
    """The rule with numbers for text.

    Raises:
        ResultsError: Neither `validation` nor a number.
    """
    if isinstance(rule, str) and rule != "validation":
        try:
            return float(rule)
        except ValueError:
            raise ResultsError(f"Unknown selection rule {rule!r}; use `validation` or a learning rate such as 6e-3.") from None
    return rule


def choose_learning_rate(validation: pd.DataFrame, rule: Rule, method: str) -> Choice:
    """The learning rate of one method on one target (a joint method: on all); test scores are never consulted.

    Rule `validation`: the highest mean, over seeds, of the primary metric on the validation split; on a tie the smaller learning rate.
    Only the learning rates with the most scored seeds are compared, so that one whose bad seeds crashed cannot win by its survivors.

    Args:
        validation: Rows of the method's jobs on the target: primary metric, validation split, columns learning_rate, seed and value. For a
            joint method the rows of all targets: one job serves them all, so they share its learning rate.
        rule: As `check_rule` returns it.
        method: The method's key, for a rule that names one learning rate per method.
    """
    if isinstance(rule, Mapping):
        return Choice(rule[method]) if method in rule else choose_learning_rate(validation, "validation", method)
    if not isinstance(rule, str):
        return Choice(float(rule))
    scored = validation.dropna(subset=["value"])
    if scored.empty:
        return Choice(None)
    summary = scored.groupby("learning_rate", dropna=False, sort=True)["value"].agg(["mean", "count"])
    complete = summary[summary["count"] == summary["count"].max()]
    aside = tuple(float(rate) for rate in summary.index.difference(complete.index))
    # argmax takes the first of equals, and the index is sorted: the smaller wins a tie. Rounding keeps float noise from deciding.
    best = int(complete["mean"].round(12).to_numpy().argmax())
    return Choice(float(complete.index[best]), aside)


def variants(nodes: pd.DataFrame) -> "pd.Series[str]":
    """A label per row that tells apart jobs of one method that differ in more than task, seed and learning rate.

    A configuration column enters a method's labels if it takes several values among the method's jobs on one task; the label is empty where
    there is nothing to tell apart. `source_seed` enters only if it differs between jobs of equal seed and learning rate.

    Args:
        nodes: One row per (node, task), index unique. Jobs whose configuration is not known yet (no `backbone`) get the label of the
            method's only variant, or `?` where there are several.
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
    """Sort key that puts `few_shot=4` before `few_shot=16`."""
    return [(part[0].isdigit(), float(part) if part[0].isdigit() else 0.0, part) for part in re.findall(r"\d+(?:\.\d+)?|\D+", label)]


def _telling(group: pd.DataFrame) -> list[str]:
    """The fewest columns, in order of interest, that tell the jobs of one task apart."""
    columns = [column for column in setting_columns(group) if _varies(group, column, ["task"])]
    if _varies(group, "source_seed", ["task", "seed", "learning_rate"]):
        columns.append("source_seed")
    columns.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST) + (not name.startswith("setting_")))
    kept: list[str] = []
    for column in columns:
        # What follows from the columns before it (a backbone's origin from its name, say) tells nothing more.
        if _varies(group, column, ["task", *kept]):
            kept.append(column)
    return kept


def _varies(group: pd.DataFrame, column: str, by: list[str]) -> bool:
    # A field that is younger than some of the records has no value there: they were trained as its default says, which is no difference.
    younger = column not in COLUMNS and not column.startswith("setting_")
    return bool((group.groupby(by, dropna=False)[column].nunique(dropna=younger) > 1).any())


def _describe(name: str, value: Any) -> str:
    shown = "none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.removeprefix('setting_')}={shown}"
