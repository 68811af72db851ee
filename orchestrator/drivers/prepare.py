"""What is done already: every artifact of a graph checked, what is broken set aside, and the graph marked accordingly.

Checking takes minutes, and other drivers work meanwhile. So what is to be set aside is claimed like a job to be trained, and checked once
more under that claim: nothing is moved from under another driver's worker.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from orchestrator.artifacts.store import JOB, SET_ASIDE, SUCCESS, Store, Verdict
from orchestrator.definition.graph import Graph
from orchestrator.drivers.claims import Claims
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.drivers.others import refuse_what_is_relied_on
from scalearn.errors import UserError

_NOTHING_KNOWN: Mapping[str, str] = {}
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class SetAside:
    """An artifact that is no longer used, or no longer there."""

    node: str
    reason: str
    place: str | None
    """Where its files are now. None: there were none."""


def prepare(
    graph: Graph,
    store: Store,
    heartbeat: Heartbeat,
    forced: Collection[str] = (),
    *,
    known: Mapping[str, str] = _NOTHING_KNOWN,
    tell: Callable[[str], object] = lambda line: None,
) -> list[SetAside]:
    """Mark as cached what is complete and whole; set aside what is corrupt, what was begun on top of that, and what is forced.

    Args:
        graph: The jobs, all pending.
        store: Where their artifacts lie.
        heartbeat: The driver's for which this is.
        forced: Nodes to train again although they may be complete.
        known: Nodes that an earlier run saw done, to when their training had begun. A store behind a URL knows more by itself.
        tell: Called with one sentence while this waits for a sign of life of another driver.

    Returns:
        What was set aside, and what is gone.

    Raises:
        UserError: Another driver trains what is forced, or may have found it done.
    """
    refuse_what_is_relied_on(store, forced, heartbeat.name)
    claims = Claims(heartbeat)
    for node, driver in claims.living(forced, tell).items():
        raise UserError(
            f"{node} is being trained by another run, {driver}: wait for its end, or stop it with `scalearn cancel`, before --force."
        )
    verdicts = store.verify_all(graph.nodes(), thorough=False)
    believed = store.mend_index(verdicts)
    look = _Look(graph, store, verdicts, frozenset(forced), frozenset(node for node in believed if believed[node] == "succeeded"), known)
    suspects = [node for node in verdicts if look.reason(node)]
    refuse_what_is_relied_on(store, forced, heartbeat.name)  # the look took its time
    moved = _set_aside(suspects, look, store, claims, tell) if suspects else []
    for node, verdict in verdicts.items():
        if verdict.state == "complete" and node not in look.unusable:
            graph.mark(node, "cached")
    return moved


@dataclass(frozen=True)
class _Look:
    """What was found, and what follows from it."""

    graph: Graph
    store: Store
    verdicts: dict[str, Verdict]
    unusable: frozenset[str]
    """What is to be trained again, whatever its state."""
    indexed: frozenset[str]
    """What the store's index took for done, wrongly."""
    known: Mapping[str, str]

    def reason(self, node: str) -> str | None:
        """Return why a node's files cannot be used. None: they can, or there never were any."""
        verdict = self.verdicts[node]
        if node in self.unusable and verdict.state != "absent":
            return "to be trained again (--force)"
        if verdict.state == "corrupt":
            return verdict.reason
        if verdict.state in ("unfinished", "absent") and self._was_done(node):
            return f"it was done, and {f'its {SUCCESS} is' if verdict.state == 'unfinished' else 'its files are'} gone"
        # A finished job keeps what it learned when its parents were whole; one under way may have read broken files.
        if verdict.state in ("unfinished", "failed"):
            broken = next((parent for parent in self.graph.parents(node) if self.verdicts[parent].state != "complete"), None)
            if broken is not None:
                return f"begun on {broken}, which is {'corrupt' if self.verdicts[broken].state == 'corrupt' else 'gone'}"
        return None

    def _was_done(self, node: str) -> bool:
        if node in self.indexed:
            return True
        if node not in self.known:
            return False
        if self.verdicts[node].state == "unfinished":
            return _started(self.store.read_json(node, JOB)) == self.known[node]
        # What was set aside is not gone.
        folder = self.store.root / SET_ASIDE / node
        records = (self.store.load_json(folder / name / JOB) for name in self.store.storage.names(folder))
        return self.known[node] not in map(_started, records)


def _set_aside(suspects: list[str], look: _Look, store: Store, claims: Claims, tell: Callable[[str], object]) -> list[SetAside]:
    """Set aside what still deserves it and is claimed by no other driver that lives; what that one has is its own to judge."""
    moved, left = [], suspects
    while left:
        claims.living(left, tell)
        mine = [node for node in left if claims.claim(node)]
        again = [node for node in left if node not in look.unusable]
        named = dict.fromkeys(name for node in again for name in (node, *look.graph.parents(node)))
        look.verdicts.update(store.verify_all(named, thorough=False))
        for node in mine:
            if reason := look.reason(node):
                place = None if look.verdicts[node].state == "absent" else str(store.set_aside(node, reason))
                moved.append(SetAside(node, reason, place))
            claims.release(node, done=False)
        # Another driver has found the same damage and is about to move it: until then, it would pass for done.
        left = [node for node in left if node not in mine and look.verdicts[node].state == "corrupt"]
        if left:
            time.sleep(_PAUSE_SECONDS)
    return moved


def _started(record: Mapping[str, object] | None) -> str | None:
    return None if record is None else str(record.get("started"))
