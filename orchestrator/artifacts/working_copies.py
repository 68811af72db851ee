"""Working copies of nodes whose store is behind a URL. Training reads and writes local files; this copies them from and to the store.

Each checkpoint is uploaded under a prefix of its own. A small pointer object, written last, names it, so a reader finds the old checkpoint
or the new one, never half of one. Parents are fetched once per host, checked against their `SUCCESS.json`, and used by all jobs there.

A worker locks each of its working copies. A copy without a lock was left by a worker that died, and is removed when the next job begins.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.artifacts.artifact import CHECKPOINT, JOB, SUCCESS, UNCOMMITTED, are_entries, belongs, inside, stranger, vouched
from orchestrator.storage.files import Storage, digest
from orchestrator.storage.retrying import StoreUnavailable
from scalearn.errors import UserError
from scalearn.files.json_files import SMALL, parse
from scalearn.pauses import pause_for

VARIABLE = "SCALEARN_SCRATCH"
"""Environment variable that sets the local directory for working copies and caches."""

POINTER = "latest.json"
_WORK, _LOCK = "work", ".lock"
_TRANSFERS = 8
_CHEAP_UPLOAD = 1.0
"""Seconds that the upload of a checkpoint may take to be made after every evaluation. A longer one is made less often."""


def scratch_of(url: str) -> Path:
    """Return this host's directory for working copies of a store. All in it can be fetched or made again."""
    named = os.environ.get(VARIABLE)
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "scalearn"
    return base.absolute() / hashlib.sha256(url.encode()).hexdigest()[:16]


@dataclass
class _Published:
    """What the store has of a node that is being trained."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    checkpoint: tuple[tuple[str, int, int], ...] = ()
    when: float = 0.0
    seconds: float = 0.0
    """Duration of the last upload of a checkpoint."""

    def cheap(self) -> bool:
        """Tell whether uploading the checkpoint again would take only a small part of the time since the last upload."""
        return self.seconds < _CHEAP_UPLOAD or time.monotonic() - self.when >= pause_for(self.seconds)


class Mirror:
    """The local copies of a store behind a URL."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.scratch = scratch_of(storage.url)
        self._published: dict[str, _Published] = {}
        self._held: dict[str, tuple[Path, FileLock]] = {}

    def work(self, node: str) -> Path:
        """Return the local directory in which this process trains a node that it has begun."""
        return self._held[node][0] if node in self._held else self.scratch / _WORK / node

    def begin(self, node: str, place: Path) -> Path:
        """Make a node's working copy equal to what the store has of it: history, logs and checkpoint. A new node's copy is empty.

        Args:
            node: The node.
            place: Where it lies in the store.

        Returns:
            The working copy.
        """
        directory = self._take(node)
        for name in self._storage.listing(place):
            if "/" not in name and belongs(name) and name != JOB:
                self._storage.download(place / name, directory / name)
        self._fetch_checkpoint(place, directory)
        self._published[node] = _Published(_signature(directory), _tree(directory / CHECKPOINT), time.monotonic())
        return directory

    def has_news(self, node: str) -> bool:
        """Tell whether `publish` has anything to upload. This only looks at local files."""
        directory, known = self.work(node), self._published.get(node, _Published())
        return bool(_changed(directory, known)) or (known.cheap() and _tree(directory / CHECKPOINT) not in ((), known.checkpoint))

    def publish(self, node: str, place: Path, *, force: bool = False, patient: bool = True) -> None:
        """Upload what is new in a working copy: history and logs always, the checkpoint if that takes little time or is forced."""
        directory, known = self.work(node), self._published.setdefault(node, _Published())
        storage = self._storage if patient else self._storage.impatient
        for name, signature in _changed(directory, known).items():
            storage.upload(directory / name, place / name)
            known.files[name] = signature
        tree = _tree(directory / CHECKPOINT)
        began = time.monotonic()
        if tree and tree != known.checkpoint and (force or known.cheap()):
            _publish_checkpoint(storage, directory, place)
            known.checkpoint, known.when = tree, time.monotonic()
            known.seconds = known.when - began

    def upload(self, node: str, place: Path) -> dict[str, dict[str, Any]]:
        """Upload every file of a finished working copy.

        Returns:
            Size and sha256 of each file by name, and its tag if the store gives one.
        """
        directory = self.work(node)
        names = [
            path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()
        ]
        names = [name for name in names if belongs(name)]
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(lambda name: self._storage.upload(directory / name, place / name), names))
            measured = dict(zip(names, pool.map(lambda name: _measure(directory / name), names), strict=True))
        found = self._storage.listing(place)
        for name, entry in measured.items():
            if found.get(name, {}).get("size") != entry["size"]:
                raise OSError(f"{place / name} did not arrive whole")
            if tag := found[name].get("ETag"):
                entry["etag"] = tag
        return measured

    def finish(self, node: str, place: Path, kept: Collection[str]) -> None:
        """Remove what a committed node no longer needs: other files in the store, and the working copy."""
        for name in self._storage.listing(place):
            if name not in kept and name not in UNCOMMITTED:
                self._storage.remove(place / name)
        self._drop(node)  # jobs on this host that need it fetch it like any parent

    def _drop(self, node: str) -> None:
        self._published.pop(node, None)
        if node in self._held:
            with self._guard():
                directory, lock = self._held.pop(node)
                _discard(directory, lock)

    def _take(self, node: str) -> Path:
        """Return an empty working copy locked by this process, and remove the copies that no process has locked."""
        self._drop(node)
        with self._guard():
            for place in self.scratch.glob(f"{_WORK}*/**/*{_LOCK}"):
                lock = FileLock(place)
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    _discard(_directory_of(place), lock)
            for number in count():
                # Another worker of this host may still have the node: it was taken for dead, and does not know that yet.
                directory = self.scratch / f"{_WORK}{number or ''}" / node
                directory.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(f"{directory}{_LOCK}")
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    break
            self._held[node] = directory, lock
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        return directory

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Keep this host's other processes from making or removing working copies while the block runs."""
        lock = self.scratch / "locks" / _WORK
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def fetch(self, node: str, place: Path) -> Path:
        """Return a local copy of a finished node; fetch it if it is not there yet. Processes of one host wait for each other.

        Raises:
            UserError: A file is missing or does not match its sha256.
        """
        raw = self._storage.read(place / SUCCESS, SMALL)
        success = parse(raw)
        listed = vouched(success)
        if listed is None or stranger(node, success):
            raise UserError(
                f"{node} in {self._storage.url} has no readable {SUCCESS} of its own: run the sweep again, which trains it again."
            )
        local = self._parent(node)
        lock = self.scratch / "locks" / hashlib.sha256(node.encode()).hexdigest()[:24]
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not _has(local, raw, listed):
                incoming = self.scratch / "incoming" / uuid.uuid4().hex
                try:
                    self._fetch_files(place, incoming, listed)
                    (incoming / SUCCESS).write_bytes(raw)
                    self._install(node, incoming)
                finally:
                    shutil.rmtree(incoming, ignore_errors=True)
        return local

    def _parent(self, node: str) -> Path:
        return self.scratch / "parents" / node

    def _install(self, node: str, directory: Path) -> None:
        local = self._parent(node)
        local.parent.mkdir(parents=True, exist_ok=True)
        if local.exists():
            old = Path(tempfile.mkdtemp(dir=self.scratch))
            os.replace(local, old / "old")
            shutil.rmtree(old, ignore_errors=True)
        os.replace(directory, local)

    def _fetch_files(self, place: Path, to: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
        def fetch(name: str) -> str | None:
            try:
                self._storage.download(place / name, to / name)
            except FileNotFoundError:
                return f"{name} is missing"
            measured = _measure(to / name)
            same = all(measured[key] == listed[name].get(key) for key in measured)
            return None if same else f"{name} does not match its sha256"

        with ThreadPoolExecutor(_TRANSFERS) as pool:
            problem = next(filter(None, pool.map(fetch, listed)), None)
        if problem:
            raise UserError(f"{place} is damaged: {problem}. Run the sweep again, which sets it aside and trains it again.")

    def _fetch_checkpoint(self, place: Path, directory: Path) -> None:
        """Fetch the newest whole checkpoint. Without one, the job starts anew.

        Raises:
            StoreUnavailable: The store cannot tell whether there is one. The job must not start anew for that reason.
        """
        incoming, tried = directory / f".{CHECKPOINT}", ""
        while True:
            pointer = self._storage.read_json(place / CHECKPOINT / POINTER, SMALL) or {}
            prefix, files = pointer.get("prefix"), pointer.get("files")
            if not isinstance(prefix, str) or prefix == tried or not inside(prefix) or not are_entries(files):
                return
            try:
                self._fetch_files(place / CHECKPOINT / prefix, incoming, files)
                os.replace(incoming, directory / CHECKPOINT)
                return
            except StoreUnavailable:
                raise
            except UserError:
                # Damaged, or replaced: a worker that was taken for dead may just have published a newer one and changed the pointer.
                shutil.rmtree(incoming, ignore_errors=True)
                tried = prefix


def _publish_checkpoint(storage: Storage, directory: Path, place: Path) -> None:
    prefix = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    names = [name for name, _, _ in _tree(directory / CHECKPOINT)]
    for name in names:
        storage.upload(directory / CHECKPOINT / name, place / CHECKPOINT / prefix / name)
    files = {name: _measure(directory / CHECKPOINT / name) for name in names}
    storage.write_json(place / CHECKPOINT / POINTER, {"prefix": prefix, "files": files})
    for name in storage.listing(place / CHECKPOINT):
        if name != POINTER and not name.startswith(f"{prefix}/"):
            storage.remove(place / CHECKPOINT / name)


def _discard(directory: Path, lock: FileLock) -> None:
    """Remove a working copy whose lock this process holds, and the lock."""
    shutil.rmtree(directory, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _directory_of(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix(_LOCK))


def _changed(directory: Path, known: _Published) -> dict[str, tuple[int, int]]:
    """Return the files directly in a working copy that differ from the store's, or that the store lacks."""
    return {name: signature for name, signature in _signature(directory).items() if known.files.get(name) != signature}


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return digest(file)


def _has(local: Path, raw: bytes, listed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether a local copy comes from this commit. Its hashes were checked when it was fetched."""
    try:
        if (local / SUCCESS).read_bytes() != raw:
            return False
        return all((local / name).stat().st_size == entry.get("size") for name, entry in listed.items())
    except OSError:
        return False


def _signature(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the size and time of each file that lies directly in a working copy."""
    found = {}
    for path in directory.iterdir():
        if path.is_file() and not path.name.startswith(".") and path.name not in UNCOMMITTED:
            facts = path.stat()
            found[path.name] = (facts.st_size, facts.st_mtime_ns)
    return found


def _tree(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Return the size and time of every file below a directory."""
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            facts = path.stat()
            found.append((path.relative_to(directory).as_posix(), facts.st_size, facts.st_mtime_ns))
    return tuple(found)
