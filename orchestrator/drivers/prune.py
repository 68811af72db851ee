"""What a store holds that no sweep names: old jobs, and what was set aside. Looking for it removes nothing."""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.artifact import FAILED, HISTORY, JOB, SUCCESS, Listing, split_name
from orchestrator.artifacts.manifest import named_by, nodes_in
from orchestrator.artifacts.store import SET_ASIDE, Store
from orchestrator.definition.identity import is_node
from orchestrator.drivers.claims import CLAIMS
from orchestrator.drivers.heartbeat import DRIVERS, living
from orchestrator.storage.files import written_at
from scalearn.errors import UserError

_OTHERS = ("sweeps/", "reports/", "mlflow-artifacts/", ".")
"""Beginnings of names that do not belong to a node."""


@dataclass(frozen=True)
class Unnamed:
    """Something in a store that may be removed."""

    place: str
    """Its place below the store's root: a node, or a folder of `.set_aside`."""
    size: int
    """Its size in bytes."""
    kept_because: str | None = None
    """Why it is not removed. None: it may be."""

    @property
    def is_node(self) -> bool:
        """Whether it is a job, not something that was set aside."""
        return not self.place.startswith(f"{SET_ASIDE}/")


def namer(store: Store, given: Collection[str] | None = None) -> Callable[[], set[str]]:
    """Return a function that tells which nodes stay. It reads the manifests again if one has changed or a driver has come.

    Args:
        store: Where the nodes lie.
        given: Nodes that stay, together with those of running sweeps. None: the nodes that the store's manifests name.

    Raises:
        UserError: Raised by the function if there is no manifest, or if one cannot be read, so that its jobs would seem unnamed.
    """
    seen: object = None
    named: set[str] = set()

    def look() -> set[str]:
        nonlocal seen, named
        files = store.storage.listing(store.root / "sweeps")
        manifests = {name: facts for name, facts in files.items() if name.endswith(".json") and "/" not in name and name[0] != "."}
        signs = store.storage.names(store.root / DRIVERS)
        if (manifests, signs) != seen:
            named = _named_in_manifests(store, manifests) if given is None else {*given, *_named_by_the_living(store)}
            seen = manifests, signs
        return named

    return look


def _named_by_the_living(store: Store) -> set[str]:
    sweeps = {driver.sweep for driver in living(store, lambda driver: driver.sweep)}
    return {node for sweep in sweeps for node in named_by(store, sweep)}


def _named_in_manifests(store: Store, names: Collection[str]) -> set[str]:
    if not names:
        raise UserError(f"The store {store.url} holds no sweep's manifest: name the sweep files whose jobs are to stay.")
    found: set[str] = set()
    for name in names:
        nodes = nodes_in(store.load_json(store.root / "sweeps" / name))
        if nodes is None:
            raise UserError(f"{store.root / 'sweeps' / name} cannot be read: remove it, or run its sweep again, before you prune.")
        found |= nodes
    return found


def unnamed(
    store: Store, named: Iterable[str], is_free: Callable[[str], bool], *, fresh_seconds: float, now: Callable[[], float] = time.time
) -> list[Unnamed]:
    """Return what no sweep names, largest first.

    A running job stays, with all that it is built on. A job counts as running if it is claimed or was written to not long ago.

    Args:
        store: Where to look.
        named: Nodes that stay.
        is_free: Tells whether no living driver has claimed a node.
        fresh_seconds: What was written within so many seconds stays.
        now: The present time, in seconds since 1970.
    """
    nodes, aside, claimed = _contents(store)
    keep, since = set(named), now() - fresh_seconds
    candidates = {node: files for node, files in nodes.items() if node not in keep}
    reasons = {
        node: "it was written to a moment ago" for node, files in candidates.items() if any(written_at(f) > since for f in files.values())
    }
    reasons |= {node: "a driver has claimed it" for node in candidates.keys() & claimed if not is_free(node)}
    for node in _needed(store, reasons, candidates):
        reasons.setdefault(node, "a job that is running is built on it")
    found = [Unnamed(node, _size(files), reasons.get(node)) for node, files in candidates.items()]
    found += [Unnamed(place, _size(files)) for place, files in aside.items()]
    return sorted(found, key=lambda item: (-item.size, item.place))


def remove(store: Store, items: Iterable[Unnamed], named: Callable[[], set[str]], is_free: Callable[[str], bool]) -> list[Unnamed]:
    """Remove what may go, and return what was removed. A job that was named or claimed since the look stays."""
    removed = []
    for item in items:
        if item.kept_because is None and (not item.is_node or (item.place not in named() and is_free(item.place))):
            if item.is_node:
                store.remove(item.place)
            else:
                store.storage.remove_tree(store.root / item.place)
            _drop_empty(store, item.place)
            removed.append(item)
    return removed


def _contents(store: Store) -> tuple[dict[str, Listing], dict[str, Listing], set[str]]:
    """Return the files of every node, the files set aside, and the nodes that any driver, alive or dead, has claimed."""
    everything = store.storage.listing(store.root)
    nodes: dict[str, dict[str, Mapping[str, Any]]] = {}
    for directory in _node_directories(everything):
        nodes[directory] = {}
    aside: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, facts in everything.items():
        if name.startswith(f"{SET_ASIDE}/"):
            place = _set_aside_place(name)
            aside.setdefault(place, {})[name.removeprefix(f"{place}/")] = facts
            continue
        node, inner = split_name(name, nodes)
        if node is not None:
            nodes[node][inner] = facts
    claims = f"{CLAIMS}/"
    claimed = {name.removeprefix(claims).rpartition("/")[0] for name in everything if name.startswith(claims)}
    return dict(nodes), dict(aside), claimed


def _node_directories(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        directory, _, file = name.rpartition("/")
        if file in (JOB, SUCCESS, FAILED, HISTORY) and not directory.startswith(_OTHERS) and is_node(directory):
            yield directory


def _set_aside_place(name: str) -> str:
    """Return the folder of one set-aside artifact: `.set_aside/NODE/TIME-XXXXXX`."""
    found = re.match(r"(?s).+?/\d{8}T\d{6}-[0-9a-f]{6}(?=/)", name)
    return found[0] if found else name


def _needed(store: Store, running: Iterable[str], candidates: Mapping[str, Any]) -> set[str]:
    """Return the candidates that running jobs are built on, directly or through other jobs."""
    found: set[str] = set()
    waiting = list(running)
    while waiting:
        parents = (store.read_json(waiting.pop(), JOB) or {}).get("parents")
        for parent in parents if isinstance(parents, list) else ():
            if isinstance(parent, str) and parent in candidates and parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _size(files: Listing) -> int:
    return sum(int(facts.get("size") or 0) for facts in files.values())


def _drop_empty(store: Store, place: str) -> None:
    """Remove the directories that are empty after a removal."""
    if not store.is_local:
        return
    for directory in (store.root / place).parents:
        if directory == store.root or not directory.is_dir() or any(directory.iterdir()):
            return
        directory.rmdir()
