"""The log of events that drivers leave in a store, as any program may read it."""

from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.drivers.events import EVENTS
from scalearn.files.json_files import json_lines


def all_events(store: Store, sweep: str) -> list[dict[str, Any]]:
    """The events of all drivers of a sweep, in the order of their time."""
    folder = store.sidecar(sweep, "events")
    found = [event for name in store.storage.names(folder) for event in events(folder / name)]
    return sorted([*events(store.sidecar(sweep, EVENTS)), *found], key=lambda event: event["time"])


def events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log of events."""
    return [event for event in json_lines(path.read_bytes()) if "time" in event] if path.exists() else []
