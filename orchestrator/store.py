"""Artifacts: where they lie, how they are committed, and how one tells that they are whole.

A node is done when its `SUCCESS.json`, written last, lists every file with size and sha256, and they all match. That holds on any
storage: nothing here needs a rename to be atomic or a directory to exist. Names that begin with a dot are not nodes: `.set_aside/`,
`.cache/`, `.tune/`.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec

from scalearn.errors import UserError

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
SET_ASIDE = ".set_aside"

_UNCOMMITTED = frozenset({SUCCESS, FAILED, TRACEBACK})
_HASH_THREADS = 8

Outcome = Literal["succeeded", "failed", "pending"]


@dataclass(frozen=True)
class Verdict:
    """What a look at a node's files found."""

    state: Literal["complete", "corrupt", "failed", "unfinished", "absent"]
    reason: str = ""
    """For `corrupt`: which file, and what is wrong with it. For `failed`: the first line of the error."""


class Store:
    """The artifacts of any number of sweeps under one root."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Name a store. Nothing is read or written yet.

        Args:
            root: A directory, relative to the working directory or absolute; a `file://` URL will do.

        Raises:
            UserError: A URL of another kind.
        """
        url = os.fspath(root)
        if "://" in url and not url.startswith("file://"):
            raise UserError(f"The store {url} is not a local or shared directory: other storage is not supported yet.")
        self._files, path = fsspec.core.url_to_fs(url)
        self.root = Path(str(path)).absolute()
        """Fixed once: a change of the working directory must not move half a store."""

    def directory(self, node: str) -> Path:
        """Return where a node's files lie, whether or not they exist.

        Raises:
            ValueError: The name would leave the store.
        """
        segments = node.split("/")
        if any(not segment or segment.startswith(".") or "\\" in segment or "\0" in segment for segment in segments):
            raise ValueError(f"{node!r} is not the name of a node")
        return self.root.joinpath(*segments)

    def check_writable(self) -> None:
        """Write and remove a file.

        Raises:
            UserError: That failed; the sentence says why.
        """
        probe = self.root / f".write-{uuid.uuid4().hex}"
        try:
            self._write(probe, b"")
            self._files.rm_file(str(probe))
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            raise UserError(f"The store {self.root} cannot be written to: {reason}. Name another with --store.") from None

    def begin(self, node: str, record: Mapping[str, Any]) -> Path:
        """Open a node for work: write its `job.json` and forget an earlier failure. What was checkpointed stays.

        Args:
            node: The node.
            record: What `job.json` says. The store adds `schema`, `started` (seconds since 1970, kept over attempts) and `attempts`.

        Returns:
            The local directory to work in.
        """
        directory = self.directory(node)
        before = self.read_json(node, JOB) or {}
        started, attempts = before.get("started"), before.get("attempts")
        merged = {
            "schema": SCHEMA,
            **record,
            "started": started if isinstance(started, float) else time.time(),
            "attempts": attempts + 1 if isinstance(attempts, int) else 1,
        }
        self.write_json(directory / JOB, merged)
        for name in (FAILED, TRACEBACK):
            self._remove(directory / name)
        return directory

    def commit(self, node: str) -> None:
        """Declare a node done: hash every file, then write `SUCCESS.json`, then drop the checkpoint.

        Raises:
            FileNotFoundError: There is no `result.json`, so there is nothing to commit.
        """
        directory = self.directory(node)
        if not self._files.isfile(str(directory / RESULT)):
            raise FileNotFoundError(errno.ENOENT, "the training function left no result", str(directory / RESULT))
        listed = {name: self._measure(directory / name) for name in self._listing(directory)}
        self.write_json(directory / SUCCESS, {"schema": SCHEMA, "files": listed, "time": time.time()})
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(str(directory / CHECKPOINT), recursive=True)

    def fail(self, node: str, error: str, traceback: str) -> None:
        """Record that a node failed.

        Args:
            node: The node.
            error: One line.
            traceback: All of it; goes to a file beside `FAILED.json`.
        """
        directory = self.directory(node)
        self._write(directory / TRACEBACK, traceback.encode())
        attempts = (self.read_json(node, JOB) or {}).get("attempts", 0)
        line = error.strip().splitlines()[0] if error.strip() else "unknown error"
        record = {"schema": SCHEMA, "error": line, "traceback_file": TRACEBACK, "attempts": attempts, "time": time.time()}
        self.write_json(directory / FAILED, record)

    def state(self, node: str) -> Outcome:
        """Return a node's state from its marker files alone, without reading what they vouch for."""
        if self._success(node):
            return "succeeded"
        return "failed" if self.read_json(node, FAILED) else "pending"

    def complete(self, node: str) -> bool:
        """Tell whether a node claims to be done; `verify` checks that claim."""
        return self._success(node) is not None

    def verify(self, node: str) -> Verdict:
        """Check a node's files against what was committed, byte by byte."""
        directory = self.directory(node)
        listed = self._success(node)
        if listed is None:
            if self._files.exists(str(directory / SUCCESS)):
                return Verdict("corrupt", f"{SUCCESS} is not readable")
            failure = self.read_json(node, FAILED)
            if failure is not None:
                return Verdict("failed", str(failure.get("error", "unknown error")))
            return Verdict("unfinished" if self._files.exists(str(directory / JOB)) else "absent")
        for name, expected in sorted(listed.items()):
            try:
                problem = self._compare(directory / name, expected)
            except FileNotFoundError:
                problem = "is missing"
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            if problem:
                return Verdict("corrupt", f"{name} {problem}")
        return Verdict("complete")

    def verify_all(self, nodes: Iterable[str]) -> dict[str, Verdict]:
        """Verify many nodes at a time; hashing and reading leave the interpreter free."""
        names = list(nodes)
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            return dict(zip(names, pool.map(self.verify, names), strict=True))

    def set_aside(self, node: str, reason: str) -> Path:
        """Move a node's files out of the way, where a person can look at them.

        Args:
            node: The node.
            reason: Why; kept in `SET_ASIDE.txt` beside the files.

        Returns:
            Where they are now.
        """
        stamp = time.strftime("%Y%m%dT%H%M%S") + f"-{uuid.uuid4().hex[:6]}"
        target = self.root / SET_ASIDE / node / stamp
        # First the marker: where moving is many small steps, an interruption must leave a node that is not done.
        success = self.directory(node) / SUCCESS
        if self._files.exists(str(success)):
            self._files.makedirs(str(target), exist_ok=True)
            self._files.mv(str(success), str(target / SUCCESS))
        for name in [*self._listing(self.directory(node)), FAILED, TRACEBACK]:
            if self._files.exists(str(self.directory(node) / name)):
                self._files.makedirs(str((target / name).parent), exist_ok=True)
                self._files.mv(str(self.directory(node) / name), str(target / name))
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(str(self.directory(node)), recursive=True)
        self._write(target / "SET_ASIDE.txt", f"{reason}\n".encode())
        return target

    def read_json(self, node: str, name: str) -> dict[str, Any] | None:
        """Read one of a node's JSON files. None: absent, half-written, or not an object."""
        return self.load_json(self.directory(node) / name)

    def load_json(self, path: Path) -> dict[str, Any] | None:
        """Read a JSON file of the store. None: absent, half-written, or not an object."""
        try:
            value = json.loads(self._files.cat_file(str(path)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON file of the store."""
        self._write(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def create(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Write a JSON file of the store where there is none; of several writers exactly one succeeds.

        Returns:
            Whether this call wrote it.
        """
        self._files.makedirs(str(path.parent), exist_ok=True)
        beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        self.write_json(beside, value)
        try:
            os.link(beside, path)  # unlike O_EXCL, no reader ever sees half a file
        except FileExistsError:
            return False
        finally:
            self._remove(beside)
        return True

    def result(self, node: str) -> dict[str, Any] | None:
        """Return a node's scores, counts and timings. None: there are none yet."""
        return self.read_json(node, RESULT)

    def twins(self, path: str) -> list[dict[str, Any]]:
        """Return `job.json` of every job at a readable path, whatever its fingerprint."""
        directory = self.directory(path)
        pattern = re.compile(re.escape(directory.name) + r"-[0-9a-f]{10}")
        try:
            entries = self._files.ls(str(directory.parent), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
        records = (self.load_json(directory.with_name(name) / JOB) for name in names if pattern.fullmatch(name))
        return [record for record in records if record is not None]

    def manifest_path(self, sweep: str) -> Path:
        """Return where a sweep's manifest lies."""
        return self.directory(f"sweeps/{sweep}.json")

    def sidecar(self, sweep: str, name: str) -> Path:
        """Return where the driver keeps a file of its own about a sweep."""
        return self.directory(f"sweeps/{sweep}/{name}")

    def sidecars(self, sweep: str, folder: str) -> list[Path]:
        """Return what lies in a folder of such files."""
        directory = self.sidecar(sweep, folder)
        try:
            entries = self._files.ls(str(directory), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(directory / str(entry).rstrip("/").rpartition("/")[2] for entry in entries)

    def _success(self, node: str) -> dict[str, Any] | None:
        """Return the files that a node's `SUCCESS.json` vouches for. None: no such file, or not one that we wrote in full."""
        record = self.read_json(node, SUCCESS)
        listed = record.get("files") if record else None
        if not isinstance(listed, dict) or RESULT not in listed:
            return None
        inside = all(isinstance(entry, dict) and ".." not in name.split("/") and not name.startswith("/") for name, entry in listed.items())
        return listed if inside else None

    def _listing(self, directory: Path) -> list[str]:
        """Return the files that belong to an artifact, relative to its directory."""
        try:
            found = self._files.find(str(directory))
        except FileNotFoundError:
            return []
        names = sorted(os.path.relpath(file, directory).replace(os.sep, "/") for file in found)
        return [name for name in names if name not in _UNCOMMITTED and not name.startswith((f"{CHECKPOINT}/", "."))]

    def _measure(self, path: Path) -> dict[str, Any]:
        with self._files.open(str(path), "rb") as file:
            digest = hashlib.sha256()
            size = 0
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
        return {"size": size, "sha256": digest.hexdigest()}

    def _compare(self, path: Path, expected: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a file, as the end of a sentence. Sizes first: they cost nothing."""
        size = self._files.size(str(path))
        if size != expected.get("size"):
            return f"has {size} bytes and not {expected.get('size')}"
        if self._measure(path)["sha256"] != expected.get("sha256"):
            return "does not match its sha256"
        return None

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file; readers on a file system see it whole or not at all."""
        self._files.makedirs(str(path.parent), exist_ok=True)
        beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            with self._files.open(str(beside), "wb") as file:
                file.write(data)
            os.replace(beside, path)
        except BaseException:
            self._remove(beside)
            raise

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(str(path))
