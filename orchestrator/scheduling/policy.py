"""Which ready jobs run next, and which run together: the one policy that the live searcher and the simulator play. Pure Python."""

import math
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from orchestrator.definition.graph import DONE, Graph, Job
from orchestrator.scheduling.cost import CostModel, Estimate, packable
from orchestrator.scheduling.memory_load import DOUBT_SECONDS, Limit, Load, stack_of
from orchestrator.scheduling.task_sizes import Size, size_of
from scalearn.config import DataConfig

_SLACK = 1.01
"""The horizon is a lower bound, so a pack may end a little after it."""

Entry = tuple[float, int, str]
"""Minus the length of the longest path, place in the listing, node: smallest first."""


class Policy:
    """Ready jobs in the order in which they should start, and the packs they start in.

    Order: the job with the longest path of work behind it first, itself included, so that what everything waits for is never late.

    Packs: jobs of a pack end together, later than each would alone, but they take less of the device in total. So a pack grows while it
    ends before the work that is left would be done anyway (`horizon`), and while there are enough ready jobs for all idle devices.
    Plenty of work: full packs. A critical path, idle devices, or the end of the sweep: small ones. That also keeps the tail short.

    Adding and taking cost logarithmic time, so that one object serves a sweep of a hundred thousand jobs. The caller marks the graph.
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
        """Queue what is ready.

        Args:
            graph: The jobs; what is done is marked so.
            cost: Estimates their durations.
            slots: How many packs can run at a time.
            apart: Jobs for which this differs are never packed together: their resources, for one.
            device: Names the device that a job runs on. What did not fit one device says nothing about another.
            learned: Called at once when a pack did not fit, with device, backbone and precision, and the tokens of a step that fit.
        """
        self._graph, self._cost, self.slots = graph, cost, max(1, slots)
        self._device, self._learned = device, learned
        self._place = {node: place for place, node in enumerate(graph.nodes())}
        self._estimates = {job.node: cost.estimate(job) for job in graph}
        self._apart = {job.node: apart(job) for job in graph}
        self._pack_key_of: dict[str, Hashable] = {job.node: (pack_key(job, cost.size), self._apart[job.node]) for job in graph}
        self._shares = self._least_shares()
        self._path = remaining_paths(graph, self._estimates, self._shares, self.slots)
        self._left = {node: share for node, share in self._shares.items() if graph.states[node] == "pending"}
        self._work_left = sum(self._left.values())
        self._running: dict[str, float] = {}
        """First node of every running pack to its expected end."""
        self._ends = 0.0
        self._paths_running: list[tuple[float, str]] = []
        self._ready: dict[Hashable, list[Entry]] = {}
        """By what keeps jobs apart."""
        self._most: Mapping[Hashable, int] = {}
        """By the same, how many packs may be out at a time."""
        self._ahead = 0
        """Those of them that wait for a device."""
        self._most_together = math.inf
        self._out: Counter[Hashable] = Counter()
        self._queues: dict[Hashable, list[Entry]] = {}
        self._waiting: set[str] = set()
        self._alone: set[str] = set()
        self._fitting: dict[Hashable, Limit] = {}
        """By device, backbone and precision, where a pack did not fit lately."""
        for node in graph.ready():
            self._add(node)

    def __len__(self) -> int:
        """Return how many jobs are ready and wait to be taken."""
        return len(self._waiting)

    def apart(self, node: str) -> Hashable:
        """Return what a job shares with all that it may be packed with, as the constructor was told."""
        return self._apart[node]

    def estimate(self, node: str) -> Estimate:
        """Return the expected course of a job."""
        return self._estimates[node]

    def bound(self, room: Mapping[Hashable, int], ahead: int) -> None:
        """Bound how many packs are out at a time, from now on.

        Jobs that need a GPU must not keep CPUs idle because they come first in the order, so each sort has a bound of its own.

        Args:
            room: By what keeps jobs apart, how many packs of that sort the cluster holds if it holds nothing else.
            ahead: How many more of each sort may wait, where it holds any.
        """
        self.slots = max(1, *room.values()) if room else 1
        self._most = {key: count + ahead if count else 0 for key, count in room.items()}
        self._ahead, self._most_together = ahead, self.slots + ahead * len(room)

    def take(self, idle: int = 1, now: float = 0.0, closed: Container[Hashable] = ()) -> tuple[str, ...]:
        """Remove and return the next pack; empty when nothing is ready that may start.

        Args:
            idle: Devices that are free, the one that asks included. 0: the pack will wait for one, and so may others beside it.
            now: The time, in seconds on any clock that all calls share.
            closed: Of jobs that `apart` gives one of these, none is taken.
        """
        horizon = self.horizon(now)
        self._fitting = {device_key: limit for device_key, limit in self._fitting.items() if now < limit.until}
        head = self._head(closed)
        if head is None:
            return ()
        most = self._most.get(self._apart[head[2]], self.slots)
        idle = max(1, min(idle, most - self._out[self._apart[head[2]]]) if idle else most - self._ahead)
        pack = [head, *self._mates(head, idle, horizon)]
        for _, _, node in pack:
            self._forget(node)
        self._start(pack, now)
        # Neighbours in the batch that are of one method and have the same sources share what they can share.
        members = (self._graph.job(node) for _, _, node in pack)
        return tuple(job.node for job in sorted(members, key=self._place_in_pack))

    def succeeded(self, node: str) -> None:
        """Learn that a job is done, and queue the jobs that waited only for it."""
        for child in self._graph.children(node):
            if self._graph.states[child] == "pending" and self._graph.is_ready(child):
                self._add(child)

    def again(self, node: str, *, alone: bool = False) -> None:
        """Queue a job that was taken and is not done: it is pending again.

        Args:
            node: The job.
            alone: Whether it shares no pack from now on.
        """
        if alone:
            self._alone.add(node)
        self._add(node)

    def failed(self, node: str) -> None:
        """Learn that a job failed: what needs it will not run."""
        for below in self._graph.below(node):
            if self._graph.states[below] == "blocked":
                self._forget(below)

    def ended(self, pack: Iterable[str]) -> None:
        """Learn that a pack's device is free."""
        for node in pack:
            if node in self._running:
                self._ends -= self._running.pop(node)
                self._out[self._apart[node]] -= 1

    def kept(self, pack: Sequence[str], kept: Sequence[str], now: float = 0.0) -> None:
        """Learn that only a part of a pack that was taken starts.

        Args:
            pack: What was taken.
            kept: What starts.
            now: As for `take`.
        """
        self.ended(pack)
        if kept:
            self._start([self._entry(node) for node in kept], now)

    def did_not_fit(self, pack: Sequence[str], passes: int, now: float = 0.0) -> None:
        """Learn that a pack had to be computed in several passes for want of memory: those of the next day are smaller.

        Args:
            pack: Its nodes. A job alone says nothing about packs, which cannot get smaller than that.
            passes: How many passes a step took, or into how many packs it must be divided.
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
        """Learn what an earlier run's packs said about the devices."""
        self._fitting |= fitting

    def horizon(self, now: float = 0.0) -> float:
        """Return a lower bound of the seconds until everything is done: the longest path that is left, or the work over the devices."""
        for heap in self._ready.values():
            while heap and heap[0][2] not in self._waiting:
                heappop(heap)
        while self._paths_running and self._paths_running[0][1] not in self._running:
            heappop(self._paths_running)
        waiting = max((-heap[0][0] for heap in self._ready.values() if heap), default=0.0)
        running = -self._paths_running[0][0] - now if self._paths_running else 0.0
        occupied = max(0.0, self._ends - now * len(self._running))
        return max(waiting, running, (self._work_left + occupied) / self.slots)

    def _head(self, closed: Container[Hashable]) -> Entry | None:
        """Remove and return the first job that may start. `horizon` has just dropped what was taken through other heaps."""
        if len(self._running) >= self._most_together:
            return None
        open_heaps = [
            heap
            for key, heap in self._ready.items()
            if heap and key not in closed and ((most := self._most.get(key)) is None or self._out[key] < most)
        ]
        return self._pop(min(open_heaps, key=lambda heap: heap[0])) if open_heaps else None

    def _mates(self, head: Entry, idle: int, horizon: float) -> list[Entry]:
        """Return the jobs that join the first one: as many as memory, what was measured to pay, and time allow."""
        enough = -(-(len(self._waiting) + 1) // max(1, idle))
        load = Load().plus(self._estimates[head[2]], self._stack(head[2]))
        if min(load.most, enough) <= 1 or head[2] in self._alone:
            return []
        limit = self._fitting.get(self._device_kind(head[2]))
        queue = self._queues[self._pack_key_of[head[2]]]
        mates: list[Entry] = []
        while load.jobs < min(load.most, enough) and (mate := self._pop(queue)) is not None:
            if mate[2] in self._alone:  # queued here before that was known; its other entry stays
                self._waiting.add(mate[2])
                continue
            load = load.plus(self._estimates[mate[2]], self._stack(mate[2]))
            if not load.fits or (limit is not None and load.tokens > limit.tokens):
                self._waiting.add(mate[2])
                heappush(queue, mate)
                break
            mates.append(mate)
        kept = self._largest_in_time(head, mates, max(horizon, -head[0]) * _SLACK)
        for mate in mates[kept:]:
            self._waiting.add(mate[2])
            heappush(queue, mate)
        return mates[:kept]

    def _largest_in_time(self, head: Entry, mates: list[Entry], horizon: float) -> int:
        """Return how many mates may join so that neither the pack nor what waits for it ends after the horizon."""
        low, high = 0, len(mates)
        while low < high:
            middle = (low + high + 1) // 2
            if self._path_of([head, *mates[:middle]]) <= horizon:
                low = middle
            else:
                high = middle - 1
        return low

    def _path_of(self, pack: list[Entry]) -> float:
        """Return the longest path that begins with a pack: longer than each of its members' paths."""
        estimates = [self._estimates[node] for _, _, node in pack]
        behind = max(-path - estimate.seconds for (path, _, _), estimate in zip(pack, estimates, strict=True))
        return self._cost.seconds(estimates) + behind

    def _start(self, pack: list[Entry], now: float) -> None:
        first = pack[0][2]
        end = now + self._cost.seconds([self._estimates[node] for _, _, node in pack])
        self._running[first] = end
        self._out[self._apart[first]] += 1
        self._ends += end
        heappush(self._paths_running, (-(now + self._path_of(pack)), first))

    def _add(self, node: str) -> None:
        entry = self._entry(node)
        self._waiting.add(node)
        if node not in self._left:  # it may be back from another state
            self._left[node] = self._shares[node]
            self._work_left += self._left[node]
        heappush(self._ready.setdefault(self._apart[node], []), entry)
        if self._estimates[node].most > 1 and node not in self._alone:
            heappush(self._queues.setdefault(self._pack_key_of[node], []), entry)

    def _entry(self, node: str) -> Entry:
        return -self._path[node], self._place[node], node

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
        """Return for every job that is not done the device seconds that it takes in the largest pack that its kind has members for."""
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
        """Remove the first entry that still waits. Entries taken through the other heap are skipped here."""
        while heap:
            entry = heappop(heap)
            if entry[2] in self._waiting:
                self._waiting.discard(entry[2])
                return entry
        return None


class FirstCome(Policy):
    """What a plain queue does: jobs in the order in which they became ready, packs spread over the idle devices. For comparison."""

    def __init__(self, graph: Graph, cost: CostModel, slots: int = 1, apart: Callable[[Job], Hashable] = lambda job: None) -> None:
        """See `Policy`."""
        self._came = 0
        super().__init__(graph, cost, slots, apart)
        for heap in self._ready.values():
            heapify(heap)

    def _add(self, node: str) -> None:
        self._came += 1
        self._place[node] = self._came
        self._path[node] = 0.0
        super()._add(node)

    def _mates(self, head: Entry, idle: int, horizon: float) -> list[Entry]:
        return super()._mates(head, idle, float("inf"))


def remaining_paths(
    graph: Graph, estimates: Mapping[str, Estimate], shares: Mapping[str, float] | None = None, slots: float = math.inf
) -> dict[str, float]:
    """Return for every job the least seconds from its start to the end of the last job behind it.

    That is the longest chain of jobs, or, where so much work waits for the job that the devices need longer for it, that work.

    Args:
        graph: The jobs.
        estimates: Of each of them.
        shares: Device seconds of each job that is not done, at least. None: the chain alone counts.
        slots: Packs that can run at a time.
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


def pack_key(job: Job, size: Callable[[DataConfig], Size] = size_of) -> Hashable:
    """Return what jobs must have in common to train as one.

    Always the backbone and the precision. Jobs of the second stage also share their target and the tasks of their sources, so that a
    batch has one length. The sources themselves may differ: the target's own was trained on as many rows as the job has. Jobs of the
    first stage only need rows of like length: a pack is padded to its longest. Method, settings, learning rate, seed and few-shot
    subset may differ.
    """
    config = job.config
    optimisation = config.optimisation
    if not packable(config.method):
        return job.node
    common = (config.stage, config.backbone_origin, optimisation.precision, optimisation.batch_size)
    if config.stage != "transfer":
        return (*common, max(length_class(size(data).padded) for data in config.data))
    rows = tuple((data.task, data.origin, data.template, data.max_length) for data in config.data)
    steps = (optimisation.epochs, optimisation.max_steps, optimisation.evaluate_every)
    sources = tuple(parent.config.task for parent in job.parents if parent.config.stage == "source")
    return (*common, rows, steps, config.sources, sources, config.external)


def length_class(tokens: float) -> int:
    """Return a number that inputs of like length share: lengths within one class differ by less than a quarter."""
    bound, number = 16.0, 0
    while tokens > bound:
        bound, number = bound * 1.25, number + 1
    return number
