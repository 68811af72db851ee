"""Artifacts: where they lie, how they are committed, and how to tell that they are whole.

A node is done when its `SUCCESS.json`, written last, lists every file with size and sha256, and all of them match. This holds on any
storage: no rename needs to be atomic, and no directory needs to exist. Names that begin with a dot are not nodes: `.set_aside/`,
`.cache/`, `.tune/`. If the store is behind a URL, training works in a local copy (`orchestrator.artifacts.working_copies`).
"""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.artifacts.artifact import (
    CHECKPOINT,
    FAILED,
    HISTORY,
    JOB,
    RESULT,
    SCHEMA,
    SUCCESS,
    TRACEBACK,
    Listing,
    Outcome,
    Verdict,
    belongs,
    judge,
    split_name,
    stranger,
    vouched,
)
from orchestrator.artifacts.index import Ended, Glance, note
from orchestrator.artifacts.working_copies import Mirror
from orchestrator.definition.identity import is_node, method_folder, path_of
from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import Patience, StoreUnavailable, reason
from scalearn.errors import UserError
from scalearn.files.json_files import SMALL, parse
from scalearn.secrets import first_line, without_secrets

__all__ = [
    "CACHE",
    "CHECKPOINT",
    "FAILED",
    "HISTORY",
    "JOB",
    "RESULT",
    "SCHEMA",
    "SET_ASIDE",
    "SUCCESS",
    "TRACEBACK",
    "Outcome",
    "Store",
    "Verdict",
]

CACHE, SET_ASIDE = ".cache", ".set_aside"

_HASH_THREADS = 8
_PROBE_BYTES = 1 << 16


class Store:
    """The artifacts of any number of sweeps below one root."""

    def __init__(self, root: str | os.PathLike[str], patience: Patience | None = None) -> None:
        """Name a store. Nothing is read or written yet.

        Args:
            root: A directory, relative to the working directory or absolute, or the URL of an object store, such as `s3://bucket/runs`.
            patience: How long to wait for storage that is full or away. None: the environment's number, or else two minutes.

        Raises:
            UserError: URLs of this kind are not supported.
        """
        self.storage = Storage(root, patience)
        self.root = self.storage.root
        self.url = self.storage.url
        """The store's name for other processes and for people: an absolute path, or the URL."""
        self.is_local = self.storage.is_local
        self._mirror = None if self.is_local else Mirror(self.storage)
        self._begun: dict[str, object] = {}
        """For each node that this process has begun, the count of its beginnings at that time."""

    @property
    def scratch(self) -> Path:
        """A local directory for caches and for files that only this host's processes read: the store itself, if that is a directory."""
        return self.root if self._mirror is None else self._mirror.scratch

    def directory(self, node: str) -> Path:
        """Return where a node's files lie in the store, whether they exist or not.

        Raises:
            ValueError: The path would lead out of the store.
        """
        segments = node.split("/")
        if any(not segment or segment.startswith(".") or "\\" in segment or "\0" in segment for segment in segments):
            raise ValueError(f"{node!r} is not the name of a node")
        return self.root.joinpath(*segments)

    def check_writable(self) -> None:
        """Write and remove a file without patience, since the user who has just started a run is there to read the error.

        Raises:
            UserError: This failed; the sentence says why.
        """
        probe = self.root / f".write-{uuid.uuid4().hex}"
        try:
            self.storage.impatient.write(probe, bytes(_PROBE_BYTES))
            self.storage.impatient.remove(probe)
        except (OSError, UserError) as error:
            cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
            raise UserError(f"The store {self.url} cannot be written to: {reason(cause)}. Name another with --store.") from None

    def check_reachable(self, *, patient: bool = False) -> None:
        """Send any request to a store behind a URL.

        Args:
            patient: Whether to wait for the store as usual. If not, the error comes at once, while the user is there to read it.

        Raises:
            UserError: The store does not answer; the sentence says why.
        """
        if not self.is_local:
            (self.storage if patient else self.storage.impatient).names(self.root / "sweeps")

    def begin(self, node: str, record: Mapping[str, Any]) -> Path:
        """Open a node for work: write its `job.json` and forget an earlier failure. An earlier checkpoint stays, and comes to this host.

        Args:
            node: The node.
            record: Content of `job.json`. The store adds `schema`, `started` (seconds since 1970, kept over attempts) and `attempts`.

        Returns:
            The local directory to work in.
        """
        place = self.directory(node)
        before = self.read_json(node, JOB) or {}
        started, attempts = before.get("started"), before.get("attempts")
        merged = {
            "schema": SCHEMA,
            **record,
            "started": started if isinstance(started, float) else time.time(),
            "attempts": attempts + 1 if isinstance(attempts, int) else 1,
        }
        self.storage.write_json(place / JOB, merged)
        self._begun[node] = merged["attempts"]
        for name in (FAILED, TRACEBACK):
            self.storage.remove(place / name)
        if self._mirror is None:
            return place
        self._note(node, None)
        directory = self._mirror.begin(node, place)
        Storage(directory, self.storage.patience).write_json(directory / JOB, merged)
        return directory

    def is_taken_over(self, node: str, *, patient: bool = True) -> bool:
        """Tell whether a node that this process has begun was begun again elsewhere. The process that began it last trains it.

        Args:
            node: The node.
            patient: Wait for a store that is away. Otherwise `StoreUnavailable` is raised at once.
        """
        return (self.read_json(node, JOB, patient=patient) or {}).get("attempts") != self._begun[node]

    def has_news(self, node: str) -> bool:
        """Tell whether a job of this process has written anything that `publish` would upload. This asks no store."""
        return self._mirror is not None and self._mirror.has_news(node)

    def publish(self, node: str, *, force: bool = False, patient: bool = True) -> None:
        """Upload what a running job has written since the last call. Jobs of a store that is a directory work in it.

        Args:
            node: A node that this process has begun.
            force: Upload even a checkpoint that is too large to upload after every evaluation.
            patient: Wait for a store that is away. Otherwise `StoreUnavailable` is raised at once, and the next call uploads the rest.
        """
        if self._mirror is not None:
            self._mirror.publish(node, self.directory(node), force=force, patient=patient)

    def commit(self, node: str) -> None:
        """Declare a node done: hash every file, then write `SUCCESS.json`, then remove the checkpoint.

        Raises:
            FileNotFoundError: There is no `result.json`, so nothing can be committed.
        """
        place = self.directory(node)
        listed = self._measure(place) if self._mirror is None else self._mirror.upload(node, place)
        if RESULT not in listed:
            raise FileNotFoundError(errno.ENOENT, "the training function left no result", str(place / RESULT))
        self.storage.write_json(place / SUCCESS, {"schema": SCHEMA, "node": node, "files": listed, "time": time.time()})
        self._note(node, "succeeded")
        if self._mirror is None:
            self.storage.remove_tree(place / CHECKPOINT)
        else:
            self._mirror.finish(node, place, listed)

    def _measure(self, place: Path) -> dict[str, dict[str, Any]]:
        """Return size and sha256 of every file of a finished node, by name."""
        names = [name for name, facts in self.storage.listing(place).items() if belongs(name) and facts["type"] == "file"]
        return {name: self.storage.size_and_hash(place / name) for name in names}

    def fail(self, node: str, error: str, traceback: str) -> None:
        """Record that a node failed.

        Args:
            node: The node.
            error: One line.
            traceback: The whole traceback, for a file beside `FAILED.json`. Secrets are removed from both.
        """
        place = self.directory(node)
        self.storage.write(place / TRACEBACK, without_secrets(traceback).encode())
        attempts = (self.read_json(node, JOB) or {}).get("attempts", 0)
        ending = {"error": first_line(error), "traceback_file": TRACEBACK, "attempts": attempts, "time": time.time()}
        failure = {"schema": SCHEMA, "node": node, **ending}
        self.storage.write_json(place / FAILED, failure)
        self._note(node, "failed")

    def fetch(self, node: str) -> Path:
        """Return a local directory that holds a finished node's files.

        Raises:
            UserError: The node lies behind a URL, and its files differ from those that were committed.
        """
        return self.directory(node) if self._mirror is None else self._mirror.fetch(node, self.directory(node))

    def state(self, node: str) -> Outcome:
        """Return a node's state by its marker files alone, without reading the files that these list."""
        if self.complete(node):
            return "succeeded"
        return "failed" if self.read_json(node, FAILED) else "pending"

    def states(self, nodes: Iterable[str]) -> dict[str, Outcome]:
        """Return the states of many nodes as `state` does. Behind a URL this takes few requests."""
        names = list(nodes)
        seen = self.glance(names)
        return {node: seen.state(node) for node in names}

    def complete(self, node: str) -> bool:
        """Tell whether a node's markers say that it is done; `verify` checks that."""
        success = self.read_json(node, SUCCESS)
        return vouched(success) is not None and stranger(node, success) is None

    def glance(self, nodes: Iterable[str]) -> "Store | Glance":
        """Return an object that quickly tells the states of many nodes: the index if the store is behind a URL, else the store itself.

        Args:
            nodes: The nodes that will be asked about.
        """
        return self if self.is_local else Glance(self.storage, nodes)

    def verify(self, node: str) -> Verdict:
        """Check every byte of a node's files against what was committed."""
        return self._judge(node, self.storage.listing(self.directory(node)), thorough=True)

    def verify_all(self, nodes: Iterable[str], *, thorough: bool = True) -> dict[str, Verdict]:
        """Verify many nodes in parallel threads, since hashing and reading leave the interpreter free.

        Args:
            nodes: The nodes to verify.
            thorough: Whether to fetch and hash files that an object store itself guards. No effect if the store is a directory.
        """
        names = list(nodes)
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            if self.is_local:
                return dict(zip(names, pool.map(self.verify, names), strict=True))
            listings = self.listings(names)
            read = self._read_markers(listings)

            def check(node: str) -> Verdict:
                found = read.get(node, {})
                if thorough and JOB in listings[node]:
                    found = {**found, JOB: self.read_json(node, JOB)}
                return judge(self.storage, node, self.directory(node), found, listings[node], thorough=thorough)

            return dict(zip(names, pool.map(check, names), strict=True))

    def mend_index(self, verdicts: Mapping[str, Verdict]) -> dict[str, Outcome]:
        """Correct the hints that `glance` reads by what was found, since a worker may have died between a marker and its hint.

        Returns:
            The nodes whose hint was wrong, each with the wrong hint.
        """
        if self.is_local:
            return {}
        seen, wrong = Glance(self.storage, ()), dict[str, Outcome]()
        for node, verdict in verdicts.items():
            state: Ended | None = "succeeded" if verdict.state == "complete" else "failed" if verdict.state == "failed" else None
            if seen.state(node) != (state or "pending"):
                wrong[node] = seen.state(node)
                self._note(node, state)
        return wrong

    def listings(self, nodes: Iterable[str]) -> dict[str, Listing]:
        """Return the files of many nodes behind a URL by few requests: one per benchmark, backbone, stage and method."""
        found: dict[str, dict[str, Mapping[str, Any]]] = {node: {} for node in nodes}
        prefixes = set(map(method_folder, found))
        for place, files in self.storage.listings(self.root / prefix for prefix in sorted(prefixes)):
            prefix = place.relative_to(self.root).as_posix()
            for name, facts in files.items():
                node, inner = split_name(f"{prefix}/{name}", found)
                if node is not None:
                    found[node][inner] = facts
        return dict(found)

    def set_aside(self, node: str, reason: str) -> Path:
        """Move a node's files to where a person can look at them.

        Args:
            node: The node.
            reason: The reason, kept in `SET_ASIDE.txt` beside the files.

        Returns:
            Where they are now.
        """
        stamp = time.strftime("%Y%m%dT%H%M%S") + f"-{uuid.uuid4().hex[:6]}"
        place, target = self.directory(node), self.root / SET_ASIDE / node / stamp
        self._note(node, None)
        names = [name for name in self.storage.listing(place) if name]
        # The marker first: if moving takes many steps, an interruption must leave a node that is not done.
        for name in sorted((name for name in names if not name.startswith(f"{CHECKPOINT}/")), key=lambda name: name != SUCCESS):
            with contextlib.suppress(FileNotFoundError):
                self.storage.move(place / name, target / name)
        self.storage.remove_tree(place)
        self.storage.write(target / "SET_ASIDE.txt", f"{reason}\n".encode())
        return target

    def remove(self, node: str) -> None:
        """Remove a node's files, the marker first, so that an interruption leaves a node that is not done."""
        place = self.directory(node)
        self._note(node, None)
        if not (self.is_local and place.is_symlink()):
            self.storage.remove(place / SUCCESS)
        self.storage.remove_tree(place)

    def read_json(self, node: str, name: str, *, patient: bool = True) -> dict[str, Any] | None:
        """Read a JSON file of a node. None: it is absent, half-written, too large, not an object, or this user may not read it."""
        try:
            return (self.storage if patient else self.storage.impatient).read_json(self.directory(node) / name, SMALL)
        except StoreUnavailable as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            return None

    def load_json(self, path: Path) -> dict[str, Any] | None:
        """Read a JSON file of the store. None: it is absent, half-written, too large, or not an object."""
        return self.storage.read_json(path)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON file of the store."""
        self.storage.write_json(path, value)

    def result(self, node: str) -> dict[str, Any] | None:
        """Return a node's scores, counts and timings. None: it has none yet."""
        return self.read_json(node, RESULT)

    def namesakes(self, path: str) -> list[dict[str, Any]]:
        """Return `job.json` of every job at a readable path, whatever its fingerprint."""
        directory = self.directory(path)
        names = (name for name in self.storage.names(directory.parent) if is_node(name) and path_of(name) == directory.name)
        records = (self.storage.read_json(directory.with_name(name) / JOB, SMALL) for name in names)
        return [record for record in records if record is not None]

    def manifest_path(self, sweep: str) -> Path:
        """Return where a sweep's manifest lies."""
        return self.directory(f"sweeps/{sweep}.json")

    def sidecar(self, sweep: str, name: str) -> Path:
        """Return where the driver keeps another file about a sweep."""
        return self.directory(f"sweeps/{sweep}/{name}")

    def _note(self, node: str, state: Ended | None) -> None:
        if not self.is_local:
            note(self.storage, node, state)

    def _judge(self, node: str, listing: Listing, *, thorough: bool) -> Verdict:
        read = {name: self.read_json(node, name) for name in (SUCCESS, FAILED, JOB) if name in listing}
        return judge(self.storage, node, self.directory(node), read, listing, thorough=thorough)

    def _read_markers(self, listings: Mapping[str, Listing]) -> dict[str, dict[str, dict[str, Any] | None]]:
        """Read one file of every node: `SUCCESS.json`, else `FAILED.json`, else `job.json`."""
        wanted: dict[Path, tuple[str, str]] = {}
        for node, listing in listings.items():
            name = next((name for name in (SUCCESS, FAILED, JOB) if name in listing), None)
            if name and (listing[name].get("size") or 0) <= SMALL:
                wanted[self.directory(node) / name] = (node, name)
        found: dict[str, dict[str, dict[str, Any] | None]] = {}
        for path, data in self.storage.read_many(wanted):
            node, name = wanted[path]
            found.setdefault(node, {})[name] = parse(data)
        return found
