"""The entry point: from a store, a sweep's manifest or a tracking server to the long data frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.errors import ResultsError
from analysis.reading.files import Folder, open_folder
from analysis.reading.frame import build_frame
from analysis.reading.records import Record, SweepInfo, config_from, read_manifest, read_records
from analysis.reading.selection import mark_chosen
from scalearn.secrets import without_secrets

TRACKING_SCHEMES = ("sqlite:", "http://", "https://", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as found in a store. It is read once, and passed to all that show it."""

    store: str
    folder: Folder
    info: SweepInfo
    records: Sequence[Record]
    frame: pd.DataFrame
    """The frame, as `load` returns it."""


def read_sweep(store: str | Path, sweep: str) -> StoredSweep:
    """Return a sweep that was run into a store.

    Raises:
        ResultsError: There is no such store or sweep, or no job in it.
    """
    folder = open_folder(store)
    info = read_manifest(folder, sweep)
    records = read_records(folder, info)
    return StoredSweep(str(store), folder, info, records, frame_of(records, info, folder.name))


def load(store: str | Path, sweep: str | None = None) -> pd.DataFrame:
    """Return all that a sweep or a store holds, finished or not, as one long frame.

    Args:
        store: Root of a store (directory or fsspec URL), a sweep's manifest `<store>/sweeps/<name>.json`, or an MLflow tracking URI
            (`sqlite:///...`, `http://...`, `postgresql://...`), from which the frame is the same.
        sweep: Name of a sweep that was run into the store: only its nodes, also those not begun. None: every node of the store.

    Returns:
        A row per (node, task, split, metric). `analysis.frame.COLUMNS` describes the columns. A node without scores (failed, blocked,
        running, pending) has one row per task, without split, metric and value. Scores are fractions.

    Raises:
        ResultsError: There is no such store or sweep, or nothing in it.
    """
    if is_tracking_uri(store):
        # Imported here: MLflow takes seconds to import, which reading a store saves.
        from analysis.reading.mlflow_source import read_tracked

        records, manifest = read_tracked(str(store), sweep)
        name = without_secrets(str(store))
    else:
        folder, manifest = locate(store, sweep)
        records, name = read_records(folder, manifest), folder.name
    return frame_of(records, manifest, name)


def frame_of(records: Sequence[Record], manifest: SweepInfo | None, place: str) -> pd.DataFrame:
    """Return the frame of records that were read already, as `load` does. `place` names the source in messages."""
    if not records:
        raise ResultsError(f"{place} holds no jobs; name the root of a store (it holds `sweeps/`) that a sweep was run into.")
    try:
        return mark_chosen(build_frame(records, manifest))
    except (TypeError, ValueError, OverflowError, AttributeError):
        # A job's files hold values of a wrong type. This counts as a failure of that job, and must not hide other jobs.
        return mark_chosen(build_frame([_sound(record) for record in records], manifest))


def _sound(record: Record) -> Record:
    """Return the record, or a failed one in its place if no frame can be made of it."""
    try:
        build_frame([record])
    except (TypeError, ValueError, OverflowError, AttributeError):
        error = f"{record.node} holds values of a wrong type; run the sweep again."
        config = config_from({}, record.node, None)
        return Record(record.node, "failed", stage=record.stage, error=error, config=config, names=record.names)
    return record


def is_tracking_uri(place: str | Path) -> bool:
    """Tell whether a place is an MLflow tracking URI rather than a store."""
    return str(place).startswith(TRACKING_SCHEMES)


def locate(store: str | Path, sweep: str | None = None) -> tuple[Folder, SweepInfo | None]:
    """Return the store's folder, and, if a sweep is named, its manifest."""
    text = str(store)
    if sweep is None and text.endswith(".json"):
        *root, directory, name = ("./" + text if "/" not in text else text).rsplit("/", 2)
        if directory != "sweeps":
            raise ResultsError(f"{text} is not a sweep's manifest; name a store or a file <store>/sweeps/<sweep>.json.")
        store, sweep = (root[0] or "/") if root else ".", name.removesuffix(".json")
    folder = open_folder(store)
    return folder, None if sweep is None else read_manifest(folder, sweep)
