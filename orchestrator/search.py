"""The Ray Tune Searcher that hands out ready packs: a job starts when its own parents are done."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from orchestrator.graph import Graph, State
from orchestrator.packing import Policy
from orchestrator.store import Store

Listener = Callable[[str, State], None]


class GraphSearcher(Searcher):
    """An adapter between Tune, which asks for trials, and the graph, which knows what may start.

    The store decides how a job ended, not the trial: a member of a pack may fail alone, and a worker may die after its last commit.
    """

    def __init__(
        self,
        graph: Graph,
        store: Store,
        make_config: Callable[[tuple[str, ...]], dict[str, Any]],
        *,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        listeners: Iterable[Listener] = (),
    ) -> None:
        """Queue what is ready.

        Args:
            graph: The jobs; what is cached is marked so.
            store: Where their artifacts appear.
            make_config: Returns the trial configuration of a pack.
            policy: Decides what runs next, and what together.
            clock: Seconds, for the policy.
            listeners: Called with every change of a job's state.
        """
        super().__init__()
        self._graph = graph
        self._store = store
        self._make_config = make_config
        self._listeners = tuple(listeners)
        self._policy = policy
        self._clock = clock
        self._packs: dict[str, tuple[str, ...]] = {}
        self._stopping = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphSearcher":
        """Stay one object: a copy would not hear what becomes of the jobs."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Be nothing in Tune's snapshots, from which nobody restores."""
        return {}

    @property
    def handed_out(self) -> int:
        """How many packs are with Tune, running or about to."""
        return len(self._packs)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopping = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """Return the next pack's configuration; None while every job that is left waits for running ones; FINISHED when none will come."""
        if self._stopping:
            return str(Searcher.FINISHED)
        idle = max(1, self._policy.slots - len(self._packs))
        pack = self._policy.take(idle, self._clock())
        if pack:
            self._packs[trial_id] = pack
            for node in pack:
                self._mark(node, "running")
            return self._make_config(pack)
        # Jobs below a failed one are blocked, not pending: without this, Tune would ask for them for ever.
        return None if self._graph.counts()["pending"] else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn how a pack ended. Tune calls this by keyword, and for an error only when the retries are used up."""
        stopped = bool(result and result.get("stopped"))
        pack = self._packs.pop(trial_id, ())
        self._policy.ended(pack)
        if pack and result and result.get("parts", 1) > 1:
            self._policy.did_not_fit(pack, result["parts"])
        for node in pack:
            if self._store.complete(node):
                self._mark(node, "succeeded")
                self._policy.succeeded(node)
            else:
                self._mark(node, "pending" if stopped else "failed")
                self._policy.failed(node)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def _mark(self, node: str, state: State) -> None:
        self._graph.mark(node, state)
        for listener in self._listeners:
            listener(node, state)
