"""Which ready jobs run next, and which run together. The live searcher and the simulator use the same policy. Pure Python."""

import math
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from heapq import heappop, heappush

from orchestrator.definition.graph import DONE, Graph, Job
from orchestrator.scheduling.cost import CostModel, Estimate
from orchestrator.scheduling.memory_load import DOUBT_SECONDS, Limit, Load, stack_of
from orchestrator.scheduling.pack_key import pack_key
from orchestrator.scheduling.paths import remaining_paths

_SLACK = 1.01
"""Allows a pack to end a little after the horizon, which is a lower bound."""

Entry = tuple[float, int, str]
"""Minus the length of the longest path, or the job's rank if jobs are ranked; the place in the listing; the node. The smallest entry comes
first."""

Admits = Callable[[str, float, float], bool]
"""Tells whether a pack may start: its first node, the seconds until it has a device, and the seconds that it then takes."""


class Policy:
    """The ready jobs in the order in which they should start, and the packs in which they start.

    Order: the job with the longest path of work behind it, itself included, comes first, so that no long path starts late.

    Packs: the jobs of a pack end together, each later than it would alone, but together they take less device time. So a pack grows while
    it ends before the remaining work would be done anyway (`horizon`), and while enough ready jobs remain for all idle devices. With plenty
    of work, packs are full. On a critical path, with idle devices, or at the end of the sweep, they are small, which keeps the end short.

    Adding and taking need logarithmic time, so that one object serves a sweep of a hundred thousand jobs. The caller marks the graph.
    """

    def __init__(
        self,
        graph: Graph,
        cost: CostModel,
        slots: int = 1,
        apart: Callable[[Job], Hashable] = lambda job: None,
        device: Callable[[Job], str] = lambda job: "",
        learned: Callable[[Hashable, float], None] = lambda device_key, tokens: None,
    ) -> None:
        """Queue the jobs that are ready.

        Args:
            graph: The jobs, with those that are done marked so.
            cost: Estimates the jobs' durations.
            slots: How many packs can run at a time.
            apart: Returns a key of a job. Jobs of different keys are never packed together, for example because their resources differ.
            device: Names the device that a job runs on. A pack that did not fit one device says nothing about other devices.
            learned: Called at once when a pack did not fit, with device, backbone and precision, and with the tokens of a step that fits.
        """
        self._graph, self._cost, self.slots = graph, cost, max(1, slots)
        self._device, self._learned, self._apart_of = device, learned, apart
        self._place: dict[str, int] = {}
        self._estimates: dict[str, Estimate] = {}
        self._apart: dict[str, Hashable] = {}
        self._pack_key_of: dict[str, Hashable] = {}
        self._shares: dict[str, float] = {}
        self._path: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._work_left = 0.0
        self._running: dict[str, float] = {}
        """The first node of every running pack, and when the pack is expected to end."""
        self._ends = 0.0
        self._paths_running: list[tuple[float, str]] = []
        self._ready: dict[Hashable, list[Entry]] = {}
        """Ready jobs, by the key that keeps jobs apart."""
        self._most: Mapping[Hashable, int] = {}
        """How many packs may be out at a time, by the key that keeps jobs apart."""
        self._ahead = 0
        """How many packs that are out may wait for a device."""
        self._most_together = math.inf
        self._out: Counter[Hashable] = Counter()
        self._queues: dict[Hashable, list[Entry]] = {}
        self._waiting: set[str] = set()
        self._alone: set[str] = set()
        self._rank: Mapping[str, int] = {}
        self._admits: Admits | None = None
        self._refused: list[str] = []
        """Ready jobs that were not admitted when their turn came."""
        self._fitting: dict[Hashable, Limit] = {}
        """Limits by device, backbone and precision, where a pack did not fit lately."""
        self.grown()

    def __len__(self) -> int:
        """Return how many jobs are ready and wait to be taken."""
        return len(self._waiting)

    def apart(self, node: str) -> Hashable:
        """Return the key that a job shares with all jobs that it may be packed with, as the constructor was told."""
        return self._apart[node]

    def estimate(self, node: str) -> Estimate:
        """Return the expected course of a job."""
        return self._estimates[node]

    def seconds(self, pack: Sequence[str]) -> float:
        """Return the expected duration of a pack."""
        return self._cost.seconds([self._estimates[node] for node in pack])

    def bound(self, room: Mapping[Hashable, int], ahead: int) -> None:
        """Set how many packs may be out at a time, from now on.

        Jobs that need a GPU must not keep CPUs idle just because they come first in the order. So each sort of job has its own bound.

        Args:
            room: How many packs of each sort the cluster holds if it holds nothing else, by the key that keeps jobs apart.
            ahead: How many more packs of each sort may wait, if the cluster holds any of that sort.
        """
        self.slots = max(1, *room.values()) if room else 1
        self._most = {key: count + ahead if count else 0 for key, count in room.items()}
        self._ahead, self._most_together = ahead, self.slots + ahead * len(room)

    def limit(self, admits: Admits) -> None:
        """Hand out only what is admitted. A job that is refused alone is offered again when a pack has ended."""
        self._admits = admits

    @property
    def refuses_all(self) -> bool:
        """Whether jobs are ready and none of them was admitted."""
        return bool(self._refused) and not self._waiting

    def rank(self, order: Mapping[str, int]) -> None:
        """Hand out jobs by their rank, the lowest first, in place of the longest path. Jobs without a rank come first."""
        self._rank = order
        waiting, self._waiting, self._ready, self._queues = self._waiting, set(), {}, {}
        for node in waiting:
            self._add(node)

    def share(self, node: str) -> float:
        """Return the device seconds of a job in the largest pack of its kind. Raises KeyError if the job was done from the beginning."""
        return self._shares[node]

    def left(self, devices: Callable[[str], float] = lambda node: 1.0) -> tuple[float, float]:
        """Return what the jobs that are neither done nor running will take, at least: seconds, and device seconds.

        Args:
            devices: Returns how many devices a job has.
        """
        path = max((self._path[node] for node in self._left), default=0.0)
        return max(path, self._work_left / self.slots), sum(share * devices(node) for node, share in self._left.items())

    def take(self, idle: int = 1, now: float = 0.0, closed: Container[Hashable] = ()) -> tuple[str, ...]:
        """Remove and return the next pack. It is empty if no ready job may start.

        Args:
            idle: How many devices are free, with the one that asks. 0: the pack will wait for a device, and others may wait beside it.
            now: The time, in seconds on any clock that all calls share.
            closed: Keys that keep jobs apart; no job of these keys is taken.
        """
        horizon = self.horizon(now)
        self._fitting = {device_key: limit for device_key, limit in self._fitting.items() if now < limit.until}
        wait = 0.0 if idle or not self._running else max(0.0, min(self._running.values()) - now)
        head = self._head(closed)
        while head is not None and not self._admitted([head], wait):
            self._refused.append(head[2])
            head = self._head(closed)
        if head is None:
            return ()
        most = self._most.get(self._apart[head[2]], self.slots)
        idle = max(1, min(idle, most - self._out[self._apart[head[2]]]) if idle else most - self._ahead)
        pack = [head, *self._mates(head, idle, horizon, wait)]
        for _, _, node in pack:
            self._forget(node)
        self._start(pack, now)
        # Jobs of one method with the same sources become neighbours in the batch, where they can share computation.
        members = (self._graph.job(node) for _, _, node in pack)
        return tuple(job.node for job in sorted(members, key=self._place_in_pack))

    def grown(self) -> None:
        """Learn that the graph has more jobs than before, and queue those that are ready."""
        new = {job.node: job for job in self._graph if job.node not in self._place}
        for node, job in new.items():
            self._place[node] = len(self._place)
            self._estimates[node] = self._cost.estimate(job)
            self._apart[node] = self._apart_of(job)
            self._pack_key_of[node] = (pack_key(job, self._cost.size), self._apart[node])
        shares = self._least_shares()
        paths = remaining_paths(self._graph, self._estimates, shares, self.slots)
        self._path |= {node: paths[node] for node in new}
        self._shares |= {node: shares[node] for node in new if node in shares}
        for node in (node for node in new if self._graph.states[node] == "pending"):
            self._left[node] = shares[node]
            self._work_left += shares[node]
        for node in (node for node in self._graph.ready() if node in new):
            self._add(node)

    def succeeded(self, node: str) -> None:
        """Learn that a job is done, and queue the jobs that waited only for it."""
        for child in self._graph.children(node):
            if self._graph.states[child] == "pending" and self._graph.is_ready(child):
                self._add(child)

    def again(self, node: str, *, alone: bool = False) -> None:
        """Queue again a job that was taken but is not done. It is pending again.

        Args:
            node: The job.
            alone: Whether the job shares no pack from now on.
        """
        if alone:
            self._alone.add(node)
        self._add(node)

    def failed(self, node: str) -> None:
        """Learn that a job failed. The jobs that need it will not run."""
        for below in self._graph.below(node):
            if self._graph.states[below] == "blocked":
                self._forget(below)

    def ended(self, pack: Iterable[str]) -> None:
        """Learn that a pack has ended and its device is free."""
        for node in pack:
            if node in self._running:
                self._ends -= self._running.pop(node)
                self._out[self._apart[node]] -= 1
        refused, self._refused = self._refused, []
        for node in refused:
            if self._graph.states[node] == "pending":
                self._add(node)

    def kept(self, pack: Sequence[str], kept: Sequence[str], now: float = 0.0) -> None:
        """Learn that only some jobs of a pack that was taken start.

        Args:
            pack: The jobs that were taken.
            kept: The jobs that start.
            now: As for `take`.
        """
        self.ended(pack)
        if kept:
            self._start([self._entry(node) for node in kept], now)

    def did_not_fit(self, pack: Sequence[str], passes: int, now: float = 0.0) -> None:
        """Learn that a pack needed several passes for want of memory. Packs are smaller for the next day.

        Args:
            pack: The pack's nodes. A single job is ignored, since a pack cannot get smaller than that.
            passes: How many passes a step took, or how many packs it must be divided into.
            now: As for `take`.
        """
        if len(pack) == 1:
            return
        members = [self._estimates[node] for node in pack]
        key = self._device_kind(pack[0])
        fitting = sum(member.rows for member in members) * max(member.longest for member in members) / passes
        if key in self._fitting:
            fitting = min(fitting, self._fitting[key].tokens)
        self._fitting[key] = Limit(fitting, now + DOUBT_SECONDS)
        self._learned(key, fitting)

    def expect(self, fitting: Mapping[Hashable, Limit]) -> None:
        """Learn the limits that an earlier run found for the devices."""
        self._fitting |= fitting

    def horizon(self, now: float = 0.0) -> float:
        """Return a lower bound of the seconds until all is done: the longest remaining path, or the remaining work per device."""
        for heap in self._ready.values():
            while heap and heap[0][2] not in self._waiting:
                heappop(heap)
        while self._paths_running and self._paths_running[0][1] not in self._running:
            heappop(self._paths_running)
        waiting = max((self._path[heap[0][2]] for heap in self._ready.values() if heap), default=0.0)
        running = -self._paths_running[0][0] - now if self._paths_running else 0.0
        occupied = max(0.0, self._ends - now * len(self._running))
        return max(waiting, running, (self._work_left + occupied) / self.slots)

    def _head(self, closed: Container[Hashable]) -> Entry | None:
        """Remove and return the first job that may start. `horizon` has just dropped the entries of jobs taken through other heaps."""
        if len(self._running) >= self._most_together:
            return None
        open_heaps = [
            heap
            for key, heap in self._ready.items()
            if heap and key not in closed and ((most := self._most.get(key)) is None or self._out[key] < most)
        ]
        return self._pop(min(open_heaps, key=lambda heap: heap[0])) if open_heaps else None

    def _mates(self, head: Entry, idle: int, horizon: float, wait: float) -> list[Entry]:
        """Return the jobs that join the first one: as many as memory, time, and the measured size at which packing saves time allow."""
        enough = -(-(len(self._waiting) + 1) // max(1, idle))
        load = Load().plus(self._estimates[head[2]], self._stack(head[2]))
        if min(load.most, enough) <= 1 or head[2] in self._alone:
            return []
        limit = self._fitting.get(self._device_kind(head[2]))
        queue = self._queues[self._pack_key_of[head[2]]]
        mates: list[Entry] = []
        while load.jobs < min(load.most, enough) and (mate := self._pop(queue)) is not None:
            if mate[2] in self._alone:  # queued here before it had to run alone; its other entry stays
                self._waiting.add(mate[2])
                continue
            load = load.plus(self._estimates[mate[2]], self._stack(mate[2]))
            if not load.fits or (limit is not None and load.tokens > limit.tokens):
                self._waiting.add(mate[2])
                heappush(queue, mate)
                break
            mates.append(mate)
        kept = self._largest_in_time(head, mates, max(horizon, self._path[head[2]]) * _SLACK, wait)
        for mate in mates[kept:]:
            self._waiting.add(mate[2])
            heappush(queue, mate)
        return mates[:kept]

    def _largest_in_time(self, head: Entry, mates: list[Entry], horizon: float, wait: float) -> int:
        """Return how many mates may join so that neither the pack nor what waits for it ends after the horizon, and it is admitted."""
        low, high = 0, len(mates)
        while low < high:
            middle = (low + high + 1) // 2
            pack = [head, *mates[:middle]]
            if self._path_of(pack) <= horizon and self._admitted(pack, wait):
                low = middle
            else:
                high = middle - 1
        return low

    def _path_of(self, pack: list[Entry]) -> float:
        """Return the longest path that begins with a pack. It is longer than the path of each member."""
        behind = max(self._path[node] - self._estimates[node].seconds for _, _, node in pack)
        return self.seconds([node for _, _, node in pack]) + behind

    def _admitted(self, pack: list[Entry], wait: float) -> bool:
        return self._admits is None or self._admits(pack[0][2], wait, self.seconds([node for _, _, node in pack]))

    def _start(self, pack: list[Entry], now: float) -> None:
        first = pack[0][2]
        end = now + self.seconds([node for _, _, node in pack])
        self._running[first] = end
        self._out[self._apart[first]] += 1
        self._ends += end
        heappush(self._paths_running, (-(now + self._path_of(pack)), first))

    def _add(self, node: str) -> None:
        entry = self._entry(node)
        self._waiting.add(node)
        if node not in self._left:  # it may have had another state before
            self._left[node] = self._shares[node]
            self._work_left += self._left[node]
        heappush(self._ready.setdefault(self._apart[node], []), entry)
        if self._estimates[node].most > 1 and node not in self._alone:
            heappush(self._queues.setdefault(self._pack_key_of[node], []), entry)

    def _entry(self, node: str) -> Entry:
        first = self._rank.get(node, -1) if self._rank else -self._path[node]
        return first, self._place[node], node

    def _device_kind(self, node: str) -> Hashable:
        job = self._graph.job(node)
        return self._device(job), job.config.backbone_origin, job.config.optimisation.precision

    def _stack(self, node: str) -> Hashable:
        return stack_of(self._graph.job(node))

    def _place_in_pack(self, job: Job) -> tuple[str, tuple[str, ...], int]:
        return job.config.method, self._graph.parents(job.node), self._place[job.node]

    def _forget(self, node: str) -> None:
        self._waiting.discard(node)
        self._work_left -= self._left.pop(node, 0.0)

    def _least_shares(self) -> dict[str, float]:
        """Return, for each job that is not done, the device seconds that it takes in the largest pack of its kind that can be filled."""
        waiting = [node for node, state in self._graph.states.items() if state not in DONE]
        population = Counter(self._pack_key_of[node] for node in waiting)
        known: dict[tuple[int, int], float] = {}
        shares: dict[str, float] = {}
        for node in waiting:
            estimate = self._estimates[node]
            size = min(estimate.largest_pack, population[self._pack_key_of[node]])
            key = (id(estimate), size)
            if key not in known:
                known[key] = self._cost.seconds([estimate] * size) / size
            shares[node] = known[key]
        return shares

    def _pop(self, heap: list[Entry]) -> Entry | None:
        """Remove the first entry that still waits. Entries of jobs taken through the other heap are skipped."""
        while heap:
            entry = heappop(heap)
            if entry[2] in self._waiting:
                self._waiting.discard(entry[2])
                return entry
        return None
