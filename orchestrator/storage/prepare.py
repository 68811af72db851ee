"""What is done already: every artifact of a graph checked, what is broken set aside, and the graph marked accordingly."""

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.definition.graph import Graph
from orchestrator.storage.store import Store


@dataclass(frozen=True)
class SetAside:
    """An artifact that is no longer used."""

    node: str
    reason: str
    place: str
    """Where its files are now."""


def prepare(graph: Graph, store: Store, forced: Collection[str] = ()) -> list[SetAside]:
    """Mark as cached what is complete and whole; set aside what is corrupt, what was begun on top of that, and what is forced.

    Args:
        graph: The jobs, all pending.
        store: Where their artifacts lie.
        forced: Nodes to train again although they may be complete.

    Returns:
        What was set aside.
    """
    verdicts = store.verify_all(graph.nodes(), thorough=False)
    store.mend_index(verdicts)
    reasons = {node: "to be trained again (--force)" for node in forced if verdicts[node].state != "absent"}
    reasons |= {node: verdict.reason for node, verdict in verdicts.items() if verdict.state == "corrupt"}
    for node, verdict in verdicts.items():
        # A finished job keeps what it learned when its parents were whole; one under way may have read broken files.
        if verdict.state in ("unfinished", "failed"):
            broken = next((parent for parent in graph.parents(node) if verdicts[parent].state != "complete"), None)
            if broken is not None:
                reasons.setdefault(node, f"begun on {broken}, which is {'corrupt' if verdicts[broken].state == 'corrupt' else 'gone'}")
    moved = [SetAside(node, reason, str(store.set_aside(node, reason))) for node, reason in reasons.items()]
    for node, verdict in verdicts.items():
        if verdict.state == "complete" and node not in reasons:
            graph.mark(node, "cached")
    return moved
