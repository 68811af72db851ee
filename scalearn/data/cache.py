"""Tokenised splits on disk: memory-mapped Arrow files, built once under a lock, verified when read.

    <directory>/<split>-<digest>/rows.arrow     the token ids
    <directory>/<split>-<digest>/entry.json     the settings, label names, warnings, and the file's size and sha256

An entry is built beside its place and renamed into it, so it is whole or absent. What a killed builder left is removed by the next one.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features
from filelock import FileLock

from scalearn.errors import UserError
from scalearn.files.content import sha256_of

ROWS, ENTRY, UNFINISHED = "rows.arrow", "entry.json", ".unfinished"

Build = Callable[[str], tuple[Features, Iterator[pa.Table], tuple[str, ...] | None, tuple[str, ...]]]


@dataclass(frozen=True)
class Entry:
    """One tokenised split."""

    rows: Dataset
    label_names: tuple[str, ...] | None
    warnings: tuple[str, ...]
    """Warnings about the task's rows when they were read."""


def open_or_build(directory: Path, wanted: Mapping[str, Mapping[str, Any]], build: Build) -> dict[str, Entry]:
    """Return the wanted splits of one task. Splits that are whole in the cache are taken from there.

    Args:
        directory: The task's directory in the cache. It is made if absent.
        wanted: For each split, the settings that determine its content.
        build: Called with a split's name; returns its features, tables, label names and warnings. One process at a time calls it.

    Raises:
        UserError: The directory cannot be written.
    """
    paths = {name: directory / f"{name}-{_digest(settings)}" for name, settings in wanted.items()}
    found = {name: _open(path) for name, path in paths.items()}
    if all(found.values()):
        return {name: entry for name, entry in found.items() if entry}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):
            for remains in directory.glob(f"*{UNFINISHED}"):
                shutil.rmtree(remains)
            entries = {}
            for name, path in paths.items():
                entries[name] = _open(path) or _build(path, wanted[name], *build(name))
            return entries
    except OSError as error:
        raise UserError(
            f"The cache {directory} cannot be written ({error.strerror or error}); give another directory, or make room."
        ) from error


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _build(
    path: Path,
    settings: Mapping[str, Any],
    features: Features,
    tables: Iterator[pa.Table],
    label_names: tuple[str, ...] | None,
    said: tuple[str, ...],
) -> Entry:
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.mkdir()
    try:
        with pa.OSFile(str(unfinished / ROWS), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
            count = 0
            for table in tables:
                writer.write_table(table)
                count += len(table)
        size, sha256 = (unfinished / ROWS).stat().st_size, sha256_of(unfinished / ROWS)
        entry = {"settings": settings, "label_names": label_names, "warnings": said, "rows": count, "size": size, "sha256": sha256}
        (unfinished / ENTRY).write_text(json.dumps(entry, indent=1))
        if path.exists():  # an entry that is damaged
            shutil.rmtree(path)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Entry(Dataset.from_file(str(path / ROWS)), label_names, said)


def _open(path: Path) -> Entry | None:
    """Return the entry if it exists and is whole."""
    try:
        entry = json.loads((path / ENTRY).read_text())
        if (path / ROWS).stat().st_size == entry["size"] and sha256_of(path / ROWS) == entry["sha256"]:
            names = entry["label_names"]
            return Entry(Dataset.from_file(str(path / ROWS)), None if names is None else tuple(names), tuple(entry["warnings"]))
    except (ValueError, RecursionError, KeyError, TypeError, OSError):
        if not path.exists():
            return None
    warnings.warn(f"The cached tokens in {path} are damaged; they are built again.", stacklevel=2)
    return None
