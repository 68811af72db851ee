"""Fetch a task's files from the hub, or find them in the hub's local cache."""

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from requests.exceptions import RequestException

from scalearn.errors import UserError
from scalearn.secrets import clause
from scalearn.tasks.hub_table import CONVERSION
from scalearn.tasks.origin import FORMATS
from scalearn.tasks.task import HubSource


def hub_files(task: str, source: HubSource, splits: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files of published splits, downloaded once into the hub's cache (`HF_HOME`). The endpoint is `HF_ENDPOINT`.

    They are read as plain files, since `datasets` refuses the scripts of older data sets, and every data set has parquet files: its own, or
    the hub's conversion.

    Args:
        task: Key of the task, for error sentences.
        source: Repository, configuration and revision.
        splits: Published splits.

    Raises:
        UserError: The hub cannot be reached and the files are not cached, or the data set lacks a split.
    """
    missing = ""
    for revision in dict.fromkeys((source.revision, CONVERSION)):
        folder = _snapshot(task, source, revision, optional=revision != source.revision)
        found = {split: [] if folder is None else _matching(folder, source.config, split) for split in splits}
        if all(found.values()):
            return found
        missing = missing or ", ".join(split for split, files in found.items() if not files)
    raise UserError(
        f"Task {task}: data set {source.name} at revision {source.revision} has no files for configuration {source.config}, "
        f"split {missing}; mend its entry in scalearn/tasks/hub_table.py, "
        f"or set data.root to a directory that holds {task}/<split>.parquet."
    )


def _snapshot(task: str, source: HubSource, revision: str, *, optional: bool) -> Path | None:
    patterns = [f"{place}*.{ending}" for place in (f"{source.config}/", "data/", "default/") for ending in FORMATS]
    try:
        return Path(snapshot_download(source.name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if optional:
            return None
        raise UserError(f"Task {task}: the hub has no data set {source.name} at revision {revision} ({clause(error)}).") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, RequestException, OSError) as error:
        if optional:
            return None
        raise UserError(
            f"Task {task}: data set {source.name} is not in the local cache and the hub cannot be reached ({clause(error)}); "
            f"connect, or set data.root to a directory that holds {task}/<split>.parquet."
        ) from error


def _matching(folder: Path, config: str, split: str) -> list[Path]:
    """Return the split's files: `<config>/<split>-00000-of-00001.parquet`, `<config>/<split>/0000.parquet`, `data/<split>.jsonl`, ..."""
    for place in (config, "default", "data"):
        for ending in FORMATS:
            name = re.compile(rf"(.*[-/])?{re.escape(split)}(-\d+-of-\d+|/.*)?\.{ending}")
            files = sorted((folder / place).rglob(f"*.{ending}"))
            found = [path for path in files if name.fullmatch(path.relative_to(folder / place).as_posix())]
            if found:
                return found
    return []
