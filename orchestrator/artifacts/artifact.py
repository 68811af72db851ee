"""What a node's directory holds, and how to tell that a finished one is whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from orchestrator.definition.identity import fingerprint_of
from orchestrator.storage.directory import first_unwritable
from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import reason

SCHEMA = 1
SUCCESS, FAILED, JOB, RESULT, HISTORY, TRACEBACK = (
    "SUCCESS.json",
    "FAILED.json",
    "job.json",
    "result.json",
    "history.jsonl",
    "traceback.txt",
)
CHECKPOINT = "checkpoint"

UNCOMMITTED = frozenset({SUCCESS, FAILED, TRACEBACK})
"""Files that tell how a node ended. They are not part of its result."""

_NOT_OURS = {"link": "is a link", "other": "is no ordinary file", "closed": "is a folder that cannot be read"}
"""Kinds of entries that no job leaves in its directory, each with the end of a sentence about it."""

Outcome = Literal["succeeded", "failed", "pending"]
"""A node's state, by its marker files alone."""

Listing = Mapping[str, Mapping[str, Any]]
"""The files of a directory by relative name, each with what the storage says about it."""


@dataclass(frozen=True)
class Verdict:
    """The state of a node's files after a check."""

    state: Literal["complete", "corrupt", "failed", "unfinished", "absent"]
    reason: str = ""
    """For `corrupt`: the file, and what is wrong with it. For `failed`: the first line of the error."""


def belongs(name: str) -> bool:
    """Tell whether a file is part of an artifact."""
    return name not in UNCOMMITTED and not name.startswith((f"{CHECKPOINT}/", "."))


def vouched(success: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the files that a `SUCCESS.json` lists. None: it is not one that we wrote in full."""
    listed = success.get("files") if success else None
    return listed if isinstance(listed, dict) and RESULT in listed and are_entries(listed) else None


def stranger(node: str, record: Mapping[str, Any] | None) -> str | None:
    """Return the other job that a node's marker or `job.json` names, if its files are a copy. None: they name this job, or no job."""
    record = record or {}
    named, digits = record.get("node", node), record.get("fingerprint")
    if named != node:
        return str(named)
    return f"a job with the fingerprint {digits}" if isinstance(digits, str) and digits != fingerprint_of(node) else None


def are_entries(files: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Tell whether a value of unknown origin maps the names of files in a directory to facts about each file."""
    return isinstance(files, dict) and all(isinstance(entry, dict) and inside(name) for name, entry in files.items())


def inside(name: str) -> bool:
    """Tell whether a name stays in its directory, on every kind of system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)


def judge(
    storage: Storage, node: str, directory: Path, read: Mapping[str, Mapping[str, Any] | None], listing: Listing, *, thorough: bool
) -> Verdict:
    """Check a node's files against what was committed.

    Args:
        storage: Where the files lie.
        node: The node.
        directory: The node's directory.
        read: Contents of its `SUCCESS.json`, `FAILED.json` and `job.json`, those that could be read.
        listing: The directory's files.
        thorough: Hash every file. Otherwise an object that still has the tag of its commit is not fetched, since the object store itself
            guards its bytes.
    """
    if "" in listing:
        return Verdict("corrupt", "it is a link")
    for name, facts in listing.items():
        if (kind := facts.get("type")) in _NOT_OURS:
            return Verdict("corrupt", f"{name} {_NOT_OURS[kind]}")
    other = next(filter(None, (stranger(node, record) for record in read.values())), None)
    if other is not None:
        return Verdict("corrupt", f"it holds the files of another job, {other}")
    listed = vouched(read.get(SUCCESS))
    if listed is None:
        if SUCCESS in listing:
            return Verdict("corrupt", f"{SUCCESS} is not readable")
        if storage.is_local and (closed := first_unwritable(directory, listing)) is not None:
            return Verdict("corrupt", f"{closed} cannot be written to")
        failure = read.get(FAILED)
        if failure is not None:
            return Verdict("failed", str(failure.get("error", "unknown error")))
        return Verdict("unfinished" if JOB in listing else "absent")
    for name, expected in sorted(listed.items()):
        problem = _problem(storage, directory / name, expected, listing.get(name), thorough=thorough)
        if problem:
            return Verdict("corrupt", f"{name} {problem}")
    return Verdict("complete")


def _problem(storage: Storage, path: Path, expected: Mapping[str, Any], facts: Mapping[str, Any] | None, *, thorough: bool) -> str | None:
    """Return what is wrong with a file, as the end of a sentence. Compare sizes first, since that costs nothing."""
    if facts is None:
        return "is missing"
    if facts.get("type") != "file":
        return "is a link" if facts.get("type") == "link" else "is no ordinary file"
    if facts.get("size") != expected.get("size"):
        return f"has {facts.get('size')} bytes and not {expected.get('size')}"
    tag = facts.get("ETag")
    if not thorough and tag is not None and tag == expected.get("etag"):
        return None
    try:
        measured = storage.size_and_hash(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    return None if measured["sha256"] == expected.get("sha256") else "does not match its sha256"


def split_name(path: str, nodes: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the node that a file belongs to, and the file's name in the node's directory."""
    end = path.find("/")
    while end != -1:
        if path[:end] in nodes:
            return path[:end], path[end + 1 :]
        end = path.find("/", end + 1)
    return None, ""
