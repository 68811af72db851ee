"""The states of a sweep's jobs in a store behind a URL, by a few requests in all instead of several per job.

The store keeps an empty object for each job that has ended, `.index/succeeded/NODE` or `.index/failed/NODE`. A listing of these names costs
one request per 1000 jobs. They are hints. What counts is `SUCCESS.json`, which is written before the hint and read by every run.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from orchestrator.artifacts.artifact import JOB, Outcome
from orchestrator.definition.identity import is_node, path_of
from orchestrator.storage.files import Storage
from scalearn.files.json_files import SMALL, parse

INDEX = ".index"

Ended = Literal["succeeded", "failed"]
_ENDED: tuple[Ended, ...] = ("succeeded", "failed")


class Glance:
    """A store as it was at one moment. It answers questions about states like a `Store`, without asking the store again."""

    def __init__(self, storage: Storage, nodes: Iterable[str]) -> None:
        """List the hints.

        Args:
            storage: Where the store lies.
            nodes: The jobs that will be asked about.
        """
        self._storage = storage
        self._nodes = tuple(nodes)
        found = {state: storage.listing(storage.root / INDEX / state) for state in _ENDED}
        self._states: dict[str, Ended] = {node: state for state in reversed(_ENDED) for node in found[state]}
        self._records: dict[str, dict[str, dict[str, Any] | None]] = {}
        self._by_path: dict[str, list[str]] | None = None

    def state(self, node: str) -> Outcome:
        """Return a node's state."""
        return self._states.get(node, "pending")

    def complete(self, node: str) -> bool:
        """Tell whether a node is done."""
        return self.state(node) == "succeeded"

    def read_json(self, node: str, name: str) -> dict[str, Any] | None:
        """Read a JSON file of a job that has ended. The first call reads the file of all such jobs."""
        if name not in self._records:
            self._records[name] = self._read([node for node in self._nodes if node in self._states], name)
        if node in self._records[name] or node in self._states:
            return self._records[name].get(node)
        return self._storage.read_json(self._storage.root / node / name, SMALL)

    def namesakes(self, path: str) -> list[dict[str, Any]]:
        """Return `job.json` of every ended job at a readable path, whatever its fingerprint."""
        if self._by_path is None:
            self._by_path = {}
            for node in self._states:
                if is_node(node):
                    self._by_path.setdefault(path_of(node), []).append(node)
        read: Callable[[str], dict[str, Any] | None] = self._read(self._by_path.get(path, ()), JOB).get
        return [record for node in sorted(self._by_path.get(path, ())) if (record := read(node)) is not None]

    def _read(self, nodes: Iterable[str], name: str) -> dict[str, dict[str, Any] | None]:
        wanted = {self._storage.root / node / name: node for node in nodes}
        return {wanted[path]: parse(data) for path, data in self._storage.read_many(wanted)}


def note(storage: Storage, node: str, state: Ended | None) -> None:
    """Write the hint of a job's state. None: the job has not ended."""
    for other in _ENDED:
        if other != state:
            storage.remove(storage.root / INDEX / other / node)
    if state is not None:
        storage.write(storage.root / INDEX / state / node, b"")
