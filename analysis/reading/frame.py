"""From records to the long data frame on which all tables and plots are based."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.api.types import pandas_dtype

from analysis.reading.names import facts_of, short_name
from analysis.reading.records import Record, SweepInfo

COLUMNS: dict[str, tuple[str, str]] = {
    "sweep": ("str", "Name of the sweep that was asked for; missing when a whole store was loaded."),
    "node": ("str", "Node id: readable path and fingerprint, relative to the store's root."),
    "state": ("str", "succeeded, failed, blocked (an ancestor failed), running (begun, not finished), pending."),
    "error": ("str", "First line of the error of a failed node; which parent failed, for a blocked one."),
    "attempts": ("Int64", "How often the node was tried, where the store says."),
    "stage": (
        "str",
        "source, transfer, joint, single, similarity, or transferability; an adapter that feeds a transfer job of the sweep is a source.",
    ),
    "benchmark": ("str", "glue, super_glue, humset, gsg, domains, ..."),
    "method": ("str", "Key of the method: a row of the benchmark table."),
    "task": ("str", "Key of the task that the score is of: `glue/rte`. A joint node has rows for each of its tasks."),
    "task_name": ("str", "Short name of the task: `rte`."),
    "backbone": ("str", "Name of the backbone."),
    "backbone_origin": ("str", "Identity of the backbone's weights."),
    "seed": ("Int64", "Seed of the job."),
    "sources": ("str", "Names of the source adapters in stacking order, joined by commas; missing for jobs without."),
    "select": ("str", "How the job chose among them: `by=logme,top=4`; missing: it stacks them all."),
    "selected": ("str", "Those of them that the job selected and stacked, joined by commas; missing where it stacks all."),
    "source_count": ("Int64", "Number of source adapters."),
    "source_quality": (
        "str",
        "What sources were trained on that were not given all of their rows as they are: `cola rows_kept=0.05, rte labels_shuffled=0.2`.",
    ),
    "source_seed": ("str", "Seeds of the parents, sorted, joined by commas: `0` when all sources have seed 0."),
    "parents": ("str", "Nodes that this one builds on, joined by spaces."),
    "data_origin": ("str", "Identity of the rows."),
    "train_rows": ("Int64", "Cap on training rows; missing: all."),
    "evaluation_rows": ("Int64", "Cap on validation and on test rows; missing: all."),
    "train_share": ("float64", "Share of the training split in (0, 1]; missing: all."),
    "few_shot": ("Int64", "Number of training rows of a few-shot run; missing otherwise."),
    "rows_kept": ("float64", "Share of the remaining training rows that a source of unequal quality kept; missing: all."),
    "labels_shuffled": ("float64", "Share of those rows whose labels were shuffled; missing: none."),
    "template": ("str", "Name of the task's input template."),
    "max_length": ("Int64", "Tokens per input."),
    "own": ("str", "Definition of one's own task; missing for registered ones."),
    "learning_rate": ("float64", "Peak learning rate."),
    "tuned": ("str", "What validation chooses beside the learning rate, as `density=0.2, weight=1`; missing for methods without."),
    "batch_size": ("Int64", "Rows per step."),
    "epochs": ("Int64", "Epochs asked for."),
    "max_steps": ("Int64", "Upper bound on steps; missing: epochs alone decide."),
    "evaluate_every": ("Int64", "Steps between evaluations; missing: every epoch."),
    "patience": ("Int64", "Evaluations without improvement before the job stops; missing: never."),
    "weight_decay": ("float64", "Weight decay."),
    "warmup": ("float64", "Share of steps over which the learning rate rises."),
    "selection": ("str", "What picks the best evaluation: validation `loss` or `metric`."),
    "max_gradient_norm": ("float64", "Gradients are clipped to this norm; missing: not clipped."),
    "temperature": ("float64", "Joint training draws tasks in proportion to size ** (1 / temperature)."),
    "precision": ("str", "Precision asked for."),
    "parameters_transfer": ("Int64", "Trainable parameters beyond the backbone and the head."),
    "parameters_source": ("Int64", "Parameters of the frozen source adapters."),
    "parameters_head": ("Int64", "Parameters of the head or heads."),
    "best_epoch": ("float64", "Epoch whose weights were kept."),
    "epochs_trained": ("float64", "Epochs that were trained."),
    "steps": ("Int64", "Optimiser steps that were taken."),
    "stopped_early": ("boolean", "Whether patience ran out."),
    "stopped_by": ("str", "What ended the job before its last step: `patience`, or `asha`: other learning rates did better."),
    "precision_used": ("str", "Precision that `auto` became."),
    "device": ("str", "Device that the job ran on."),
    "pack_size": ("Int64", "Number of jobs trained together in the job's pack."),
    "rows_train": ("Int64", "Training rows of the task that were used."),
    "rows_validation": ("Int64", "Validation rows of the task."),
    "rows_test": ("Int64", "Test rows of the task."),
    "train_seconds": ("float64", "Seconds spent training."),
    "evaluate_seconds": ("float64", "Seconds spent evaluating."),
    "load_seconds": ("float64", "Seconds spent loading the backbone and the data."),
    "warnings": ("str", "Warnings of the job, joined by `; `."),
    "data_warnings": ("str", "What was ambiguous or suspicious about the task's rows, one sentence each."),
    "host": ("str", "Machine that the job ran on."),
    "git_commit": ("str", "Commit of the code that ran."),
    "started": ("float64", "Seconds since 1970 at which the node was first begun."),
    "finished": ("float64", "Seconds since 1970 at which the node succeeded or failed."),
    "split": ("str", "validation, test, or a further one such as test_mismatched; missing for a node without scores."),
    "metric": ("str", "loss, accuracy, matthews, ...; missing for a node without scores."),
    "value": ("float64", "The score; fractions 0 to 1 except for losses."),
    "primary": ("boolean", "Whether the metric is the one that the task's table reports and that selection uses."),
    "chosen": (
        "bool",
        "Whether the sweep's table shows the job: its learning rate is the one that validation chose for the cell, and so is `tuned`.",
    ),
    "tried": (
        "Int64",
        "Learning rates, or combinations with `tuned`, that the cell's was chosen among; missing for jobs that belong to no cell.",
    ),
}
"""Type and meaning of each column. There are two more kinds of columns: `setting_<name>` for every setting of a method, and one under its
own name for every field that a newer configuration adds."""

CONFIG_COLUMNS = (
    *("benchmark", "backbone", "backbone_origin", "sources", "source_count", "select", "source_quality"),
    *(
        "data_origin",
        "train_rows",
        "evaluation_rows",
        "train_share",
        "few_shot",
        "rows_kept",
        "labels_shuffled",
        "template",
        "max_length",
        "own",
    ),
    *("batch_size", "epochs", "max_steps", "evaluate_every", "patience", "weight_decay", "warmup", "selection"),
    *("max_gradient_norm", "temperature", "precision"),
)
"""Columns that describe what was run, besides stage, method, task, seed and learning rate."""

_OF_SCORES = ("split", "metric", "value", "primary")
_OF_SELECTION = ("chosen", "tried")
_RENAMED = {"origin": "data_origin"}
_NOT_COPIED = {"data", "optimisation", "settings", "sources", "external"}


def build_frame(records: Sequence[Record], manifest: SweepInfo | None = None) -> pd.DataFrame:
    """Return the long frame: a row per (node, task, split, metric). A node without scores has one row per task.

    `frame.attrs["names"]` holds what the results say about names of methods and tasks (`analysis.reading.names`). `frame.attrs["sweep"]`
    holds the manifest's name, benchmark, targets and methods, for the order of tables. The columns `chosen` and `tried` are missing:
    `analysis.selection.mark_chosen` adds them.
    """
    seeds = {record.node: record.config.get("seed") for record in records}
    qualities = {record.node: quality for record in records if (quality := _quality(record))}
    names = facts_of(records)
    units: list[dict[str, Any]] = []
    index: list[int] = []
    scores: list[tuple[str | None, str | None, float | None, bool | None]] = []
    for record in records:
        common = _node_columns(record, seeds, qualities)
        method = str(common.get("method"))
        tuned = (names["methods"].get(method) or {}).get("tuned") or ()
        if manifest is not None:
            common["sweep"] = manifest.name
            tuned = (*tuned, *manifest.searched.get(method, ()))
        common["tuned"] = _tuned(common, tuned)
        for task in _tasks(record):
            units.append(common | _task_columns(record, task))
            before = len(scores)
            scores.extend(_scores(record, task))
            if len(scores) == before:
                scores.append((None, None, None, None))
            index.extend([len(units) - 1] * (len(scores) - before))
    table = pd.DataFrame.from_records(units)
    extra = [column for column in table.columns if column not in COLUMNS]
    table = table.reindex(columns=[*(column for column in COLUMNS if column not in (*_OF_SCORES, *_OF_SELECTION)), *extra])
    frame = typed(table).take(index).reset_index(drop=True)
    for position, column in enumerate(_OF_SCORES):
        frame[column] = pd.Series([row[position] for row in scores], dtype=COLUMNS[column][0])
    frame.attrs["names"] = names
    if manifest is not None:
        frame.attrs["sweep"] = {
            "name": manifest.name,
            "benchmark": manifest.benchmark,
            "targets": list(manifest.targets),
            "methods": list(manifest.methods),
            "objectives": list(manifest.objectives),
        }
    return frame


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the documented dtypes. Columns that are not in `COLUMNS` get the narrowest pandas dtype that fits.

    Raises:
        TypeError, ValueError, OverflowError: A value does not fit its column.
    """
    columns = {}
    for name in table.columns:
        column = table[name]
        # pandas reads "5" as a number in one column and refuses it in another.
        if name in COLUMNS and COLUMNS[name][0] != "str" and any(isinstance(value, str) for value in column):
            raise TypeError(f"{name} holds text")
        columns[name] = column.astype(pandas_dtype(COLUMNS[name][0])) if name in COLUMNS else _narrowest(column)
    return pd.DataFrame(columns)


def setting_columns(frame: pd.DataFrame) -> list[str]:
    """Return the frame's columns of configuration: the documented ones, settings, and fields that a newer configuration added."""
    known = set(CONFIG_COLUMNS)
    return [column for column in frame.columns if column in known or column not in COLUMNS]


def distinct(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with each score once and a new index, since two sweeps joined by `pandas.concat` may share nodes."""
    frame = frame.drop_duplicates(["node", "task", "split", "metric"]).reset_index(drop=True)
    frame.attrs.clear()  # otherwise pandas would copy them with every cut-out cell
    return frame


def _narrowest(column: "pd.Series[Any]") -> "pd.Series[Any]":
    present = [value for value in column if not _is_missing(value)]
    if present and all(isinstance(value, bool) for value in present):
        return column.astype("boolean")
    if present and all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return column.astype("Int64")
    if present and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
        return column.astype("float64")
    return pd.Series([None if _is_missing(value) else str(value) for value in column], index=column.index, dtype="str")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _quality(record: Record) -> str | None:
    """Return what a source was trained on: `cola rows_kept=0.05`. None: it was given all of its rows as they are."""
    for entry in record.config.get("data") or ():
        given = [f"{name}={entry[name]:g}" for name in ("rows_kept", "labels_shuffled") if entry.get(name) is not None]
        if given:
            return " ".join([short_name(str(entry.get("task"))), *given])
    return None


def _node_columns(record: Record, seeds: Mapping[str, Any], qualities: Mapping[str, str]) -> dict[str, Any]:
    config, result = record.config, record.result
    sources = config.get("sources") or ()
    parent_seeds = sorted({seed for parent in record.parents if (seed := seeds.get(parent)) is not None})
    parameters, timing = result.get("parameters") or {}, result.get("timing") or {}
    columns: dict[str, Any] = {_RENAMED.get(key, key): _scalar(value) for key, value in config.items() if key not in _NOT_COPIED}
    columns |= {key: _scalar(value) for key, value in (config.get("optimisation") or {}).items()}
    columns |= {f"setting_{key}": _scalar(value) for key, value in (config.get("settings") or {}).items()}
    if external := config.get("external"):  # by the adapters' origins, since places may change within a sweep
        columns["external"] = " ".join(f"{adapter['name']}={adapter['origin']}" for adapter in external)
    columns |= {
        "node": record.node,
        "state": record.state,
        "error": record.error,
        "attempts": record.attempts,
        "stage": record.stage or config.get("stage"),
        "sources": ",".join(sources) or None,
        "selected": ",".join(result.get("selected") or ()) or None,
        "source_count": len(sources) or None,
        "source_quality": ", ".join(qualities[parent] for parent in record.parents if parent in qualities) or None,
        "source_seed": ",".join(map(str, parent_seeds)) or None,
        "parents": " ".join(record.parents) or None,
        "parameters_transfer": parameters.get("transfer"),
        "parameters_source": parameters.get("source"),
        "parameters_head": parameters.get("head"),
        "best_epoch": result.get("best_epoch"),
        "epochs_trained": result.get("epochs"),
        "steps": result.get("steps"),
        "stopped_early": result.get("stopped_early"),
        "stopped_by": result.get("stopped_by"),
        "precision_used": result.get("precision"),
        "device": result.get("device"),
        "pack_size": result.get("pack_size"),
        "train_seconds": timing.get("train_seconds"),
        "evaluate_seconds": timing.get("evaluate_seconds"),
        "load_seconds": timing.get("load_seconds"),
        "warnings": "; ".join(map(str, result.get("warnings") or ())) or None,
        "host": record.provenance.get("host"),
        "git_commit": record.provenance.get("git_commit"),
        "started": record.started,
        "finished": record.finished,
    }
    return columns


def _tuned(columns: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the values by which jobs in one row of the table differ. None: there are none, or the job's configuration is not known."""
    values = {name: columns.get("sources" if name == "sources" else f"setting_{name}") for name in names}
    if not values or any(value is None for value in values.values()):
        return None
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())


def _tasks(record: Record) -> list[str | None]:
    tasks: dict[str | None, None] = {entry.get("task"): None for entry in record.config.get("data") or ()}
    tasks |= dict.fromkeys(record.result.get("scores") or ())
    return list(tasks) or [None]


def _task_columns(record: Record, task: str | None) -> dict[str, Any]:
    columns: dict[str, Any] = {"task": task, "task_name": short_name(task) if task else None}
    for entry in record.config.get("data") or ():
        if entry.get("task") == task:
            columns |= {_RENAMED.get(key, key): _scalar(value) for key, value in entry.items() if key != "task"}
    rows = (record.result.get("rows") or {}).get(task) or {}
    said = (record.result.get("data_warnings") or {}).get(task)
    return (
        columns
        | {f"rows_{split}": rows.get(split) for split in ("train", "validation", "test")}
        | {"data_warnings": " ".join(said or ()) or None}
    )


def _scores(record: Record, task: str | None) -> Iterator[tuple[str, str, float, bool]]:
    primary = (record.result.get("primary_metric") or {}).get(task)
    for split, metrics in ((record.result.get("scores") or {}).get(task) or {}).items():
        for metric, value in metrics.items():
            yield split, metric, float(value), metric == primary


def _scalar(value: Any) -> Any:
    """Return nested values (a setting may be a list) as compact text, to compare and group them. Empty ones become None."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or None
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in sorted(value.items())) or None
    return value
