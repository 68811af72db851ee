"""What a node's directory holds, and how one tells that a finished one is whole."""

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
"""Files that tell how a node ended, and are no part of what it made."""

_NOT_OURS = {"link": "is a link", "other": "is no ordinary file", "closed": "is a folder that cannot be read"}
"""Kinds of entries that no job leaves in its directory, with the end of a sentence."""

Outcome = Literal["succeeded", "failed", "pending"]
"""How a node stands by its marker files alone."""

Listing = Mapping[str, Mapping[str, Any]]
"""A directory's files by relative name, with what the storage says about each."""


@dataclass(frozen=True)
class Verdict:
    """What a look at a node's files found."""

    state: Literal["complete", "corrupt", "failed", "unfinished", "absent"]
    reason: str = ""
    """For `corrupt`: which file, and what is wrong with it. For `failed`: the first line of the error."""


def belongs(name: str) -> bool:
    """Tell whether a file is part of an artifact."""
    return name not in UNCOMMITTED and not name.startswith((f"{CHECKPOINT}/", "."))


def vouched(success: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the files that a `SUCCESS.json` vouches for. None: it is not one that we wrote in full."""
    listed = success.get("files") if success else None
    return listed if isinstance(listed, dict) and RESULT in listed and are_entries(listed) else None


def stranger(node: str, record: Mapping[str, Any] | None) -> str | None:
    """Return which other job a node's marker or `job.json` speaks of, where its files are a copy. None: of this one, or of none."""
    record = record or {}
    named, digits = record.get("node", node), record.get("fingerprint")
    if named != node:
        return str(named)
    return f"a job with the fingerprint {digits}" if isinstance(digits, str) and digits != fingerprint_of(node) else None


def are_entries(files: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Tell whether something from a stranger maps names of files in a directory to what is said about each."""
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
        storage: Where.
        node: The node.
        directory: Where its files are.
        read: Content of its `SUCCESS.json`, `FAILED.json` and `job.json`, as far as they could be read.
        listing: The directory's files.
        thorough: Hash every file. Otherwise an object whose tag is the one that it was committed with is not fetched again: the object
            store itself guards its bytes.
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
    """Return what is wrong with a file, as the end of a sentence. Sizes first: they cost nothing."""
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
    """Return which node a file belongs to, and its name there."""
    end = path.find("/")
    while end != -1:
        if path[:end] in nodes:
            return path[:end], path[end + 1 :]
        end = path.find("/", end + 1)
    return None, ""
