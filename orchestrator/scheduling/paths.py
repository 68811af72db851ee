"""How much work lies behind each job of a graph."""

import math
from collections.abc import Mapping

from orchestrator.definition.graph import DONE, Graph
from orchestrator.scheduling.cost import Estimate


def remaining_paths(
    graph: Graph, estimates: Mapping[str, Estimate], shares: Mapping[str, float] | None = None, slots: float = math.inf
) -> dict[str, float]:
    """Return, for each job, the least seconds from its start to the end of the last job behind it.

    This is the longest chain of jobs. Where so much work waits for the job that the devices need longer for it, it is that work.

    Args:
        graph: The jobs.
        estimates: The estimate of each job.
        shares: The least device seconds of each job that is not done. None: only the chain counts.
        slots: How many packs can run at a time.
    """
    paths: dict[str, float] = {}
    for job in reversed(list(graph)):
        children = [child for child in graph.children(job.node) if graph.states[child] not in DONE]
        behind = max((paths[child] for child in children), default=0.0)
        if children and shares is not None:
            work = sum(shares[below] for below in graph.below(job.node) if below in shares)
            behind = max(behind, work / slots)
        paths[job.node] = estimates[job.node].seconds + behind
    return paths
