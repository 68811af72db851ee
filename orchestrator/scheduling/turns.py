"""Which packs may start: as many of each shape as the cluster's nodes hold at the moment, with a turn for wide ones.

Ray gives free resources to any trial that fits into them, so a wide job would wait as long as narrow ones keep coming.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from orchestrator.definition.resources import Shape, count_fitting, lack

LOOKAHEAD = 1
"""How many packs of each shape are handed out beyond what fits, so that a worker that falls idle has its next order waiting.

A larger number would fix the order too early."""

LOOK_SECONDS = 5.0
"""Seconds between two looks at which nodes there are. A node takes longer than that to start."""

_PLACING_SECONDS = 60.0
"""How long Ray may take to start a pack once there is room. After that, the nodes that it needs may be gone."""

_ROUNDING = 1e-6

logger = logging.getLogger(__name__)


class Turns:
    """What the cluster holds, which packs were handed out but have not started, and which of them others must wait for.

    A placement is a key for the shape of a trial: all packs of one placement need the same resources.
    """

    def __init__(self, shapes: Mapping[Hashable, Shape], nodes: Callable[[], Sequence[Shape]]) -> None:
        """Look at the cluster for the first time.

        Args:
            shapes: The resources that the trials of each placement need.
            nodes: Returns the total resources of each node.
        """
        self._shapes, self._look = shapes, nodes
        self._looked: float | None = None
        self._missing: set[Hashable] = set()
        self._overtaken: dict[str, int] = {}
        """Trials that have not started, each with the number of trials handed out after it."""
        self._placement: dict[str, Hashable] = {}
        """The placement of each trial that has not ended."""
        self._taken: defaultdict[str, float] = defaultdict(float)
        """Resources that running packs hold."""
        self._idle_since: float | None = None
        self._count()

    def follow(self, now: float) -> bool:
        """Look at the cluster again if the last look is old, since nodes come and go. Tell whether the numbers of packs that fit changed.

        Args:
            now: Seconds on any clock.
        """
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return False
        first, before = self._looked is None, self.room
        self._looked = now
        self._count()
        self._report()
        return first or self.room != before

    def handed_out(self, trial: str, placement: Hashable) -> None:
        """Learn that Tune has a pack."""
        waited_for = {placement: self._scarce(placement) for placement in {self._placement[waiting] for waiting in self._overtaken}}
        for waiting in self._overtaken:
            if self._shapes[placement].keys() & waited_for[self._placement[waiting]]:
                self._overtaken[waiting] += 1
        self._overtaken[trial] = 0
        self._placement[trial] = placement

    def started(self, trial: str) -> None:
        """Learn that a pack has a worker."""
        if self._overtaken.pop(trial, None) is not None:
            self._take(trial, 1)

    def ended(self, trial: str) -> None:
        """Learn that a pack has ended, whether it had started or not."""
        if self._overtaken.pop(trial, None) is None and trial in self._placement:
            self._take(trial, -1)
        self._placement.pop(trial, None)

    def held_back(self, now: float) -> set[Hashable]:
        """Return the placements of which nothing may be handed out, to make room for a pack that others have overtaken too often.

        Args:
            now: Seconds on any clock. If nothing runs, the pack gets a while to start. Then others go on, since its node may be gone.
        """
        slots = max(1, *self.room.values()) if self.room else 1
        starving = [trial for trial, count in self._overtaken.items() if count >= slots and self.room[self._placement[trial]]]
        if not starving or len(self._placement) > len(self._overtaken):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        if self._idle_since is not None and now - self._idle_since >= _PLACING_SECONDS:
            return set()
        scarce = {name for placement in {self._placement[trial] for trial in starving} for name in self._scarce(placement)}
        return {placement for placement, shape in self._shapes.items() if shape.keys() & scarce}

    def _take(self, trial: str, sign: int) -> None:
        for name, amount in self._shapes[self._placement[trial]].items():
            self._taken[name] += sign * amount

    def _scarce(self, placement: Hashable) -> set[str]:
        """Return the resources that a pack waits for: those that are too scarce, or all if each is enough but no single node has them."""
        wanted = self._shapes[placement]
        short = {name for name, amount in wanted.items() if self._total[name] - self._taken[name] + _ROUNDING < amount}
        return short or set(wanted)

    def _count(self) -> None:
        self._nodes = self._look()
        self.room = {placement: count_fitting(self._nodes, shape) for placement, shape in self._shapes.items()}
        """How many packs of each placement the nodes hold at a time."""
        self._total: defaultdict[str, float] = defaultdict(float)
        for name, amount in itertools.chain.from_iterable(node.items() for node in self._nodes):
            self._total[name] += amount

    def _report(self) -> None:
        """Report once for every shape that no node holds any more that its jobs wait."""
        missing = {placement for placement, count in self.room.items() if not count}
        for placement in missing - self._missing:
            reason = lack(self._nodes, self._shapes[placement])
            logger.warning("Some jobs fit on no node any more (each %s): they wait until a node joins that holds them.", reason)
        self._missing = missing
