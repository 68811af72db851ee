"""The trials that were proposed for a sweep, as its store keeps them: `sweeps/NAME/trials/GROUP.json`, one file per group."""

from collections.abc import Sequence

from orchestrator.artifacts.store import Store
from orchestrator.definition.expand import Expanded, Expansion
from orchestrator.definition.graph import Graph
from orchestrator.definition.ranges import Point
from orchestrator.definition.sweep import Sweep
from orchestrator.definition.trials import NOTHING_KNOWN, Known
from scalearn.files.json_files import parse
from scalearn.identity import to_plain

SCHEMA = 1


def known_trials(store: Store, sweep: Sweep) -> Known:
    """Return the trials that a store keeps for a sweep. What is damaged counts as not there, and is proposed again."""
    if sweep.search is None or sweep.search.by != "optuna":
        return NOTHING_KNOWN
    folder = store.sidecar(sweep.name, "trials")
    files = [folder / name for name in store.storage.names(folder) if name.endswith(".json")]
    return {path.stem: _points(parse(content)) for path, content in store.storage.read_many(files)}


def keep_trials(store: Store, sweep: str, group: str, points: Sequence[Point]) -> None:
    """Keep all points of a group, in order."""
    store.write_json(store.sidecar(sweep, f"trials/{group}.json"), {"schema": SCHEMA, "points": to_plain(tuple(points))})


def expand_in(store: Store, sweep: Sweep, *, ahead: bool = False) -> Expanded:
    """Return a sweep's jobs and searches, with the trials that its store knows.

    Args:
        store: The store.
        sweep: The sweep.
        ahead: Whether other trials stand in for those that are still to be proposed.

    Raises:
        UserError: The data of a task is missing.
    """
    return Expansion(sweep).expand(known_trials(store, sweep), ahead=ahead)


def graph_in(store: Store, sweep: Sweep) -> Graph:
    """Return the graph of `expand_in`."""
    return expand_in(store, sweep).graph


def graph_ahead(store: Store, sweep: Sweep) -> Graph | None:
    """Return the graph with stand-ins for the jobs of trials that are still to be proposed. None: there is no search."""
    return expand_in(store, sweep, ahead=True).graph if sweep.search is not None else None


def _points(record: object) -> Sequence[Point]:
    points = record.get("points") if isinstance(record, dict) else None
    return [point for point in points if isinstance(point, dict)] if isinstance(points, list) else []
