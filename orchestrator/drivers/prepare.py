"""What is done already: check every artifact of a graph, set broken ones aside, and mark the graph accordingly.

Checking takes minutes, and other drivers work in the meantime. So an artifact that is to be set aside is first claimed, like a job to be
trained, and checked again under that claim. This way nothing is moved while another driver's worker uses it.
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
    """An artifact that is no longer used, or that no longer exists."""

    node: str
    reason: str
    place: str | None
    """Where its files are now. None: it had none."""


def prepare(
    graph: Graph,
    store: Store,
    heartbeat: Heartbeat,
    forced: Collection[str] = (),
    *,
    known: Mapping[str, str] = _NOTHING_KNOWN,
    tell: Callable[[str], object] = lambda line: None,
) -> list[SetAside]:
    """Mark the whole artifacts as cached. Set aside the corrupt ones, unfinished jobs that were built on them, and the forced ones.

    Args:
        graph: The jobs, all pending.
        store: Where their artifacts lie.
        heartbeat: The heartbeat of the driver that asks.
        forced: Nodes to train again, although they may be complete.
        known: Nodes that an earlier run saw done, each with the time when its training began. A store behind a URL knows more by itself.
        tell: Called with one sentence before this waits for another driver's heartbeat.

    Returns:
        The artifacts that were set aside, and those that are gone.

    Raises:
        UserError: Another driver trains a forced node, or may have found it done.
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
    refuse_what_is_relied_on(store, forced, heartbeat.name)  # again, since the look took a while
    moved = _set_aside(suspects, look, store, claims, tell) if suspects else []
    for node, verdict in verdicts.items():
        if verdict.state == "complete" and node not in look.unusable:
            graph.mark(node, "cached")
    return moved


@dataclass(frozen=True)
class _Look:
    """What was found, and its consequences."""

    graph: Graph
    store: Store
    verdicts: dict[str, Verdict]
    unusable: frozenset[str]
    """Nodes to train again, whatever their state."""
    indexed: frozenset[str]
    """Nodes that the store's index wrongly took for done."""
    known: Mapping[str, str]

    def reason(self, node: str) -> str | None:
        """Return why a node's files cannot be used. None: they can, or the node never had any."""
        verdict = self.verdicts[node]
        if node in self.unusable and verdict.state != "absent":
            return "to be trained again (--force)"
        if verdict.state == "corrupt":
            return verdict.reason
        if verdict.state in ("unfinished", "absent") and self._was_done(node):
            return f"it was done, and {f'its {SUCCESS} is' if verdict.state == 'unfinished' else 'its files are'} gone"
        # A finished job used its parents while they were whole. A job that is not finished may have read broken files.
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
        # What was set aside does not count as gone.
        folder = self.store.root / SET_ASIDE / node
        records = (self.store.load_json(folder / name / JOB) for name in self.store.storage.names(folder))
        return self.known[node] not in map(_started, records)


def _set_aside(suspects: list[str], look: _Look, store: Store, claims: Claims, tell: Callable[[str], object]) -> list[SetAside]:
    """Set aside the suspects that are still broken and that no other living driver has claimed; that driver judges its own jobs."""
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
        # Another driver has found the same damage and will move the files. Until then the artifact would count as done.
        left = [node for node in left if node not in mine and look.verdicts[node].state == "corrupt"]
        if left:
            time.sleep(_PAUSE_SECONDS)
    return moved


def _started(record: Mapping[str, object] | None) -> str | None:
    return None if record is None else str(record.get("started"))
