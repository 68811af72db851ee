"""The ledger: a file in the store that lists the jobs that are logged in full."""

from collections.abc import Mapping
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.tracking.sqlite_address import sqlite_file
from scalearn.secrets import without_secrets

_LEDGER = "tracked.json"


class Ledger:
    """The finished nodes that are logged in full. A run needs this while the server is away, and compares it with the server's runs."""

    def __init__(self, store: Store, sweep: str, uri: str, experiment: str) -> None:
        """Read what an earlier run noted about the same tracking URI and experiment."""
        self._store = store
        self._path = store.sidecar(sweep, _LEDGER)
        self._key = {"uri": without_secrets(uri), "experiment": experiment}
        content = store.load_json(self._path) or {}
        valid = all(content.get(name) == value for name, value in self._key.items()) and not _is_gone(uri)
        self.nodes: dict[str, str] = dict(content["nodes"]) if valid and isinstance(content.get("nodes"), dict) else {}
        """The nodes, each with the time when its training began."""
        self.report: str | None = content.get("report") if valid else None
        """Mark of the report that was logged."""
        self._experiment_id: str | None = content.get("experiment_id") if valid else None
        self._changed = False

    def has(self, node: str, record: Mapping[str, Any] | None) -> bool:
        """Tell whether the training that a node's `job.json` describes is logged."""
        return record is not None and self.nodes.get(node) == str(record.get("started"))

    def add(self, node: str, started: str) -> None:
        """Note a node."""
        self.nodes[node] = started
        self._changed = True

    def note_experiment(self, experiment_id: str) -> None:
        """Note the server's id of the experiment, with which a report links to its runs."""
        self._changed |= experiment_id != self._experiment_id
        self._experiment_id = experiment_id

    def note_report(self, mark: str) -> None:
        """Note a report."""
        self.report = mark
        self._changed = True

    def save(self) -> None:
        """Write what is new."""
        if self._changed:
            content = {**self._key, "experiment_id": self._experiment_id, "nodes": self.nodes, "report": self.report}
            self._store.write_json(self._path, content)
            self._changed = False


def logged_before(store: Store, sweep: str) -> dict[str, str]:
    """Return the jobs that any run of a sweep logged as done, on any server, each with the time when its training began."""
    nodes = (store.load_json(store.sidecar(sweep, _LEDGER)) or {}).get("nodes")
    return {node: started for node, started in nodes.items() if isinstance(started, str)} if isinstance(nodes, dict) else {}


def _is_gone(uri: str) -> bool:
    """Tell whether the SQLite file that the ledger is about was removed."""
    file = sqlite_file(uri)
    return file is not None and not file.exists()
