"""The Ray Tune Searcher that hands out ready packs. A job starts when its parents are done, and again if its worker died.

If another driver has claimed a job, this one waits for it: the artifact will be as good as its own.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from ray import cloudpickle, tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.search import Searcher

from orchestrator.artifacts.store import FAILED, Store
from orchestrator.definition.graph import Graph, State
from orchestrator.definition.schema import Budget
from orchestrator.drivers.claims import Claims
from orchestrator.execution.cluster import died_with_its_node
from orchestrator.execution.retries import NODE_LOSSES, Retries
from orchestrator.execution.trial import ENDING, Ending, NodeLeaves, describe
from orchestrator.scheduling.budget import Spending
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.turns import LOOKAHEAD, Turns
from orchestrator.storage.retrying import StoreUnavailable

Listener = Callable[[str, State], None]

LOOK_SECONDS = 1.0
"""Seconds between two looks at the jobs of other drivers."""


class GraphSearcher(Searcher):
    """The link between Tune, which asks for trials, and the graph, which knows the jobs that may start.

    The store decides how a job ended, not the trial: one member of a pack may fail alone, and a worker may die after its last commit.
    """

    def __init__(
        self,
        graph: Graph,
        store: Store,
        make_config: Callable[[tuple[str, ...]], dict[str, Any]],
        *,
        policy: Policy,
        turns: Turns,
        retries: Retries,
        claims: Claims,
        spending: Spending | None = None,
        clock: Callable[[], float] = time.monotonic,
        listeners: Iterable[Listener] = (),
        grow: Callable[[], list[str]] = list,
    ) -> None:
        """Queue the jobs that are ready.

        Args:
            graph: The jobs, with those that are cached marked so.
            store: Where their artifacts appear.
            make_config: Returns the trial configuration of a pack.
            policy: Decides which jobs run next, and which together.
            turns: Knows what the cluster holds.
            retries: Decides which jobs start again after their worker died.
            claims: Keeps two drivers from training the same job.
            spending: Counts what is spent of the run's budget. None: there is none.
            clock: The clock that all of these share, in seconds.
            listeners: Called with every change of a job's state.
            grow: Called after jobs have ended. Lets the graph grow by what is then due, and returns the new nodes.
        """
        super().__init__()
        self._graph = graph
        self._store = store
        self._make_config = make_config
        self._listeners = tuple(listeners)
        self._grow, self._may_grow = grow, False
        self._policy = policy
        self._clock = clock
        self._retries, self._claims = retries, claims
        self._turns, self._spending = turns, spending or Spending(Budget(), lambda node: 1.0)
        if self._spending.is_limited:
            policy.limit(self._spending.admits)
        self._packs: dict[str, tuple[str, ...]] = {}
        self._pausing: dict[str, float] = {}
        """Jobs whose worker died, and when each may start again."""
        self._elsewhere: dict[str, dict[str, Any] | None] = {}
        """Jobs that other drivers have, each with its earlier failure, if any."""
        self._looked = -LOOK_SECONDS
        self._stopping = False
        self._lost: StoreUnavailable | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphSearcher":
        """Return this very object, since a copy would not hear what becomes of the jobs."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Put nothing into Tune's snapshots, since nothing is restored from them."""
        return {}

    @property
    def handed_out(self) -> int:
        """Number of packs that Tune has, running or about to."""
        return len(self._packs)

    def stop(self) -> None:
        """Hand out no more packs."""
        self._stopping = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """Return the next pack's configuration; None while all jobs that are left wait; FINISHED when there will be no more."""
        if self._stopping:
            return str(Searcher.FINISHED)
        if self._lost is not None:
            raise self._lost
        now = self._clock()
        self._end_pauses(now)
        self._look_elsewhere(now)
        self._extend()
        if self._turns.follow(now):
            self._policy.bound(self._turns.room, LOOKAHEAD)
        self._spending.follow(self._policy, self._graph)
        idle, closed = max(0, self._policy.slots - len(self._packs)), self._turns.held_back(now)
        while taken := self._policy.take(idle, now, closed):
            pack = self._claim(taken)
            self._policy.kept(taken, pack, now)
            if pack:
                self._packs[trial_id] = pack
                self._turns.handed_out(trial_id, self._policy.apart(pack[0]))
                self._spending.handed_out(trial_id, pack[0], self._policy.seconds(pack))
                for node in pack:
                    self._mark(node, "running")
                return self._make_config(pack)
        # FINISHED is final, and a running job may still lose its worker. Jobs that were just found done may let the graph grow.
        over = self._graph.is_finished() or self._nothing_fits()
        return str(Searcher.FINISHED) if over and not self._may_grow else None

    def _nothing_fits(self) -> bool:
        """Tell whether the budget admits none of the jobs that are ready, and no other job will become ready."""
        return self._policy.refuses_all and not (self._packs or self._pausing or self._elsewhere)

    def _extend(self) -> None:
        """Let the graph grow if jobs have ended since it last did."""
        if not self._may_grow:
            return
        self._may_grow = False
        if new := self._grow():
            self._policy.grown()
            for node in new:
                if self._graph.states[node] == "cached":
                    self._tell(node, "cached")

    def on_trial_start(self, trial_id: str) -> None:
        """Learn that a pack has found a free place."""
        self._turns.started(trial_id)
        self._spending.started(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn how a pack ended. Tune calls this by keyword. After an error, Tune tells the cause a moment later, through `TrialNews`."""
        self._turns.ended(trial_id)
        self._spending.ended(trial_id)
        if not error:
            with self._remembering_a_lost_store():
                self._end(trial_id, result)

    def _end(self, trial_id: str, result: dict[str, Any] | None) -> None:
        pack = self._packs.pop(trial_id, ())
        self._policy.ended(pack)
        ending: Ending = (result or {}).get(ENDING, Ending())
        parts = 2 if ending.how == "halve" else (result or {}).get("parts", 1)
        if pack and parts > 1:
            self._policy.did_not_fit(pack, parts, self._clock())
        for node in pack:
            if self._store.complete(node):
                self._succeed(node)
            elif node not in ending.left:
                self._fail(node)
            elif ending.how == "away":
                self._store.fail(node, ending.error, ending.error)
                self._fail(node)
            else:
                self._mark(node, "pending")
                # If a pack stopped though nobody asked it to, another driver has taken the job over.
                self._policy.again(node, alone=ending.how == "part" or self._retries.is_suspect(node))

    def on_trial_death(self, trial_id: str, cause: BaseException | None) -> None:
        """Take back the unfinished jobs of a pack whose worker died. Jobs whose workers died too often fail.

        A worker that left because its node will go is no death: its jobs may start elsewhere at once.

        Args:
            trial_id: The trial.
            cause: What Ray says about the death. None: nothing.
        """
        known = getattr(cause, "cause", None)  # Ray wraps an error that a worker raised
        with self._remembering_a_lost_store():
            if isinstance(known, NodeLeaves):
                self._end(trial_id, {ENDING: known.ending})
            else:
                self._end_dead(trial_id, cause)

    @contextlib.contextmanager
    def _remembering_a_lost_store(self) -> Iterator[None]:
        """Keep a lost store for `suggest` to report: elsewhere Tune would take the error for the trial's failure, and wait for ever."""
        try:
            yield
        except StoreUnavailable as error:
            self._lost = error

    def _end_dead(self, trial_id: str, cause: BaseException | None) -> None:
        pack = self._packs.pop(trial_id, ())
        self._policy.ended(pack)
        with_node = cause is not None and died_with_its_node(cause)
        for node in pack:
            if self._store.complete(node):
                self._succeed(node)
                continue
            pause = self._retries.died(node, alone=len(pack) == 1, with_node=with_node)
            if pause is None:
                self._store.fail(node, _last_words(cause, with_node=with_node), str(cause or "no cause is known"))
                self._fail(node)
            else:
                self._mark(node, "pending")
                self._pausing[node] = self._clock() + pause

    def _claim(self, pack: tuple[str, ...]) -> tuple[str, ...]:
        """Return the jobs of a pack that this driver may train."""
        mine = []
        for node in pack:
            if not self._claims.claim(node):
                self._elsewhere[node] = self._store.read_json(node, FAILED)
            elif self._store.complete(node):  # another driver has finished it since this one looked
                self._find_done(node)
            else:
                mine.append(node)
        return tuple(mine)

    def _look_elsewhere(self, now: float) -> None:
        """Look at the jobs of other drivers. Those that nobody trains any more are ready for this driver again."""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for node, before in list(self._elsewhere.items()):
            if self._store.complete(node):
                self._find_done(node)
            elif self._claims.is_free(node):
                failure = self._store.read_json(node, FAILED)
                if failure is None or failure == before:
                    self._policy.again(node, alone=self._retries.is_suspect(node))
                else:
                    self._fail(node)
            else:
                continue
            del self._elsewhere[node]

    def _find_done(self, node: str) -> None:
        self._claims.release(node, done=True)
        self._mark(node, "cached")
        self._policy.succeeded(node)

    def _end_pauses(self, now: float) -> None:
        for node in [node for node, end in self._pausing.items() if end <= now]:
            del self._pausing[node]
            self._policy.again(node, alone=self._retries.is_suspect(node))

    def _succeed(self, node: str) -> None:
        self._claims.release(node, done=True)
        self._mark(node, "succeeded")
        self._policy.succeeded(node)

    def _fail(self, node: str) -> None:
        self._claims.release(node, done=False)
        self._mark(node, "failed")
        self._policy.failed(node)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def _mark(self, node: str, state: State) -> None:
        self._graph.mark(node, state)
        self._may_grow |= state not in ("pending", "running")
        self._tell(node, state)

    def _tell(self, node: str, state: State) -> None:
        for listener in self._listeners:
            listener(node, state)


class TrialNews(tune.Callback):
    """Tells the searcher what Tune does not tell it: that a trial has found a place, and why a worker died."""

    def __init__(self, searcher: GraphSearcher) -> None:
        """Keep the searcher to tell."""
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on that a trial has started."""
        self._searcher.on_trial_start(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on the error of a trial."""
        self._searcher.on_trial_death(trial.trial_id, _cause(trial))


def _cause(trial: Any) -> BaseException | None:
    """Return the error from the trial's local directory. Tune's own getters look into storage, where it arrives later."""
    with contextlib.suppress(FileNotFoundError, TypeError):
        return cast("BaseException", cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()))
    with contextlib.suppress(FileNotFoundError, TypeError):  # Tune keeps only two classes of errors as objects
        return RayError(Path(trial.error_file).read_text().partition("\n")[2].strip())
    return None


def _last_words(cause: BaseException | None, *, with_node: bool) -> str:
    """Return in one line why a job is given up."""
    if with_node:
        return f"The job lost its node {NODE_LOSSES + 1} times: if no other job did, it may be what brings nodes down."
    known = getattr(cause, "cause", None) or cause  # Ray wraps an error that a worker raised
    what = "failed" if isinstance(cause, RayTaskError) else "died"
    return f"The worker {what} and so did those that took over: {describe(known) if known else 'no cause is known'}"
