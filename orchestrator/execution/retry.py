"""What failed, and what waits for it: the part of a sweep that `scalearn retry` runs."""

from orchestrator.definition.graph import Graph, node_pattern
from orchestrator.storage.store import Store


def failed_part(graph: Graph, store: Store, only: str | None = None) -> tuple[str, ...]:
    """Return the failed jobs, and the jobs that nothing but those keeps from running.

    Args:
        graph: All jobs of the sweep.
        store: Where their artifacts are.
        only: Regular expression: of the failed jobs, those whose node matches.

    Returns:
        Nodes, parents before children; none where no job failed.

    Raises:
        UserError: `only` is not a regular expression.
    """
    expression = node_pattern(only or "")
    states = store.states(graph.nodes())
    failed = {node for node, state in states.items() if state == "failed" and expression.search(node)}
    chosen: dict[str, None] = {}
    for node in graph.nodes():
        waits_for = [parent for parent in graph.parents(node) if states[parent] != "succeeded"]
        blocked = states[node] == "pending" and bool(waits_for) and all(parent in chosen for parent in waits_for)
        if node in failed or blocked:
            chosen[node] = None
    return tuple(chosen)
