"""The rounds of a sweep's searches: the next round of a group is proposed, kept and run when all jobs of its earlier rounds have ended.

Groups do not wait for one another, and the rest of the sweep goes on meanwhile.
"""

from typing import Any

from orchestrator.artifacts.best import validation_score
from orchestrator.artifacts.manifest import content_of
from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import keep_trials, known_trials
from orchestrator.definition.expand import Expanded, Expansion
from orchestrator.definition.graph import DONE, Graph, Job
from orchestrator.definition.ranges import Point
from orchestrator.definition.sweep import Sweep
from orchestrator.definition.trials import Group, Trial
from orchestrator.execution.proposals import Values, propose


class Rounds:
    """What is known of a sweep's searches while it runs. It lets the sweep's graph grow."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        """Read the trials that the store knows."""
        self._sweep, self._store = sweep, store
        self._expansion = Expansion(sweep)
        self._known = dict(known_trials(store, sweep))
        self.expanded: Expanded = self._expansion.expand(self._known)
        """The sweep's jobs and searches so far."""

    def content(self) -> str:
        """Return the digits that stand for the sweep's jobs, without those proposed: drivers may know more of them or fewer."""
        return content_of((self._expansion.expand() if self._known else self.expanded).graph.nodes())

    def grow(self, graph: Graph) -> list[str]:
        """Add the jobs of all rounds that are due. Return their nodes; those that are done already are marked so.

        Args:
            graph: The sweep's graph, with the states of its jobs. It must not be part of the sweep only.
        """
        new: list[str] = []
        while self._due(graph):
            self._known |= known_trials(self._store, self._sweep)  # another driver may have proposed these rounds, and others
            new += self._extend(graph)
            for group in self._due(graph):
                self._known[group.key] = self._next(group)
                keep_trials(self._store, self._sweep.name, group.key, self._known[group.key])
            new += self._extend(graph)
        return new

    def _extend(self, graph: Graph) -> list[str]:
        self.expanded = self._expansion.expand(self._known)
        jobs = [job for job in self.expanded.graph if job.node not in graph]
        if jobs:
            graph.extend(jobs)
        for job in jobs:
            if self._store.complete(job.node):
                graph.mark(job.node, "cached")
        return [job.node for job in jobs]

    def _due(self, graph: Graph) -> list[Group]:
        return [group for group in self.expanded.groups if self._is_due(group, graph)]

    def _is_due(self, group: Group, graph: Graph) -> bool:
        """Tell whether every trial has ended and there are more to come. A round that failed as a whole says nothing to go on from."""
        search = group.search
        if search.by != "optuna" or len(group.trials) >= search.trials:
            return False
        ended = all(graph.states[job.node] not in ("pending", "running") for trial in group.trials for job in trial.jobs)
        last = group.trials[-(len(group.trials) % search.round or search.round) :]
        return ended and any(all(graph.states[job.node] in DONE for job in trial.jobs) for trial in last)

    def _next(self, group: Group) -> list[Point]:
        """Return all points of a group with its next round."""
        search, size = group.search, len(group.trials)
        start = size - size % search.round  # a round that fewer trials had cut short is completed
        told = [(trial.point, self._values(trial)) for trial in group.trials[:start]]
        proposed = propose(group.space, told, min(search.round, search.trials - start), search.seed)
        return [*(trial.point for trial in group.trials), *proposed[size - start :]]

    def _values(self, trial: Trial) -> Values | None:
        """Return what a trial reached, as means over its seeds. None: a job has no result."""
        reached = [self._value(job) for job in trial.jobs]
        scored = [values for values in reached if values is not None]
        if len(scored) < len(reached):
            return None
        return tuple(sum(column) / len(scored) for column in zip(*scored, strict=True))

    def _value(self, job: Job) -> Values | None:
        result = self._store.result(job.node) if self._store.complete(job.node) else None
        score = None if result is None else validation_score(result)
        if result is None or score is None:
            return None
        weighs = "parameters" in self._sweep.objectives
        return (score, float(learned_parameters(result))) if weighs else (score,)


def learned_parameters(result: dict[str, Any]) -> int:
    """Return how many parameters a job learned besides its heads. A method without sources counts its own as those of a source."""
    counts = result["parameters"]
    return int(counts["transfer"] or counts["source"])
