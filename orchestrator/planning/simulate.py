"""Plays the scheduling policy on devices that do not exist, event by event: the same object that the live searcher asks."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from orchestrator.definition.graph import DONE, Graph
from orchestrator.planning.cost import CostModel, Estimate
from orchestrator.planning.packing import Policy, kind, remaining_paths

MakePolicy = Callable[[Graph, CostModel, int], Policy]


@dataclass(frozen=True)
class Played:
    """One pack as it ran."""

    nodes: tuple[str, ...]
    device: int
    begin: float
    """Seconds since the start of the sweep."""
    end: float


@dataclass(frozen=True)
class Bounds:
    """What no schedule can beat, whatever its packs."""

    critical_path: float
    """Seconds of the longest chain of jobs, each alone on a device at once."""
    work: float
    """Device seconds of all jobs, each in as large a pack as it can find."""
    devices: int

    @property
    def makespan(self) -> float:
        """The larger of critical path and work over devices."""
        return max(self.critical_path, self.work / self.devices)


@dataclass(frozen=True)
class Forecast:
    """A sweep played to its end."""

    packs: tuple[Played, ...]
    devices: int
    bounds: Bounds

    @property
    def makespan(self) -> float:
        """Seconds from the first job's start to the last one's end."""
        return max((pack.end for pack in self.packs), default=0.0)

    @property
    def device_seconds(self) -> float:
        """Seconds of all devices in use."""
        return sum(pack.end - pack.begin for pack in self.packs)

    @property
    def utilisation(self) -> float:
        """Share of the devices' time until the end that is in use."""
        return self.device_seconds / (self.devices * self.makespan) if self.makespan else 0.0

    @property
    def over_bound(self) -> float:
        """Makespan over its lower bound; 1 is the best there can be."""
        return self.makespan / self.bounds.makespan if self.bounds.makespan else 1.0


def simulate(graph: Graph, cost: CostModel, devices: int, policy: MakePolicy = Policy, *, noise: float = 0.0, seed: int = 0) -> Forecast:
    """Play a sweep. The graph is marked as a run would mark it.

    Args:
        graph: The jobs; those that are done marked so.
        cost: Estimates the durations.
        devices: How many packs run at a time.
        policy: Decides what runs next.
        noise: Standard deviation of the logarithm of true over expected duration. The policy only knows the expected one.
        seed: Of the noise.
    """
    bounds = lower_bounds(graph, cost, devices)
    player = policy(graph, cost, devices)
    chance = random.Random(seed)
    idle, cold = list(range(devices)), set(range(devices))
    events: list[tuple[float, int]] = []
    packs: list[Played] = []
    now = 0.0
    while True:
        while idle and (nodes := player.take(len(idle), now)):
            device = heappop(idle)
            seconds = cost.seconds([player.estimate(node) for node in nodes])
            seconds *= chance.lognormvariate(0.0, noise) if noise else 1.0
            if device in cold:
                cold.remove(device)
                seconds += cost.worker_seconds
            for node in nodes:
                graph.mark(node, "running")
            heappush(events, (now + seconds, len(packs)))
            packs.append(Played(nodes, device, now, now + seconds))
        if not events:
            return Forecast(tuple(packs), devices, bounds)
        now, ended = heappop(events)
        heappush(idle, packs[ended].device)
        player.ended(packs[ended].nodes)
        for node in packs[ended].nodes:
            graph.mark(node, "succeeded")
            player.succeeded(node)


def lower_bounds(graph: Graph, cost: CostModel, devices: int) -> Bounds:
    """Return what no schedule of the jobs that are left can beat."""
    estimates = {job.node: cost.estimate(job) for job in graph}
    kinds: dict[Hashable, list[Estimate]] = defaultdict(list)
    for job in graph:
        if graph.states[job.node] not in DONE:
            kinds[kind(job)].append(estimates[job.node])
    if not kinds:
        return Bounds(0.0, 0.0, devices)
    paths = remaining_paths(graph, estimates)
    path = max(paths[job.node] for job in graph if graph.states[job.node] not in DONE)
    return Bounds(path + cost.worker_seconds, sum(map(least_work, kinds.values())), devices)


def least_work(members: Sequence[Estimate]) -> float:
    """Return device seconds that no packing of jobs of one kind can beat.

    What a step costs whoever shares it is paid least often when the jobs with the most steps share packs; all else is each job's own.
    """
    largest = max(member.largest_pack for member in members)
    fixed = min(member.train.fixed for member in members)
    fixed_evaluation = min(member.evaluate.fixed for member in members)
    own = sum(member.seconds - member.steps * member.train.fixed - member.passes * member.evaluate.fixed for member in members)
    steps = sorted((member.steps for member in members), reverse=True)[::largest]
    passes = sorted((member.passes for member in members), reverse=True)[::largest]
    return own + fixed * sum(steps) + fixed_evaluation * sum(passes)


class Barrier(Policy):
    """The same policy with a barrier: the second stage starts when the first is done everywhere. For comparison."""

    def take(self, idle: int = 1, now: float = 0.0, closed: Container[Hashable] = ()) -> tuple[str, ...]:
        """See `Policy.take`."""
        if not hasattr(self, "_first"):
            # Whatever else a sweep holds, a barrier waits only for what some transfer job needs.
            self._first = {parent.node for job in self._graph if job.config.stage == "transfer" for parent in job.parents} & {
                node for node, state in self._graph.states.items() if state not in DONE
            }
            self._held: list[str] = []
        while pack := super().take(idle, now, closed):
            if self._graph.job(pack[0]).config.stage != "transfer" or not self._first:
                return pack
            self.ended(pack)
            self._held += pack
        return ()

    def succeeded(self, node: str) -> None:
        """See `Policy.succeeded`."""
        super().succeeded(node)
        self._first.discard(node)
        if not self._first:
            for held in self._held:
                self._add(held)
            self._held = []


@dataclass(frozen=True)
class Slice:
    """Jobs of one stage and method in a forecast."""

    stage: str
    method: str
    jobs: int
    packs: int
    device_seconds: float
    begin: float
    end: float


def slices(graph: Graph, forecast: Forecast) -> list[Slice]:
    """Return what each stage and method takes, largest first. A pack of several methods counts for each, its time shared evenly."""
    jobs: Counter[tuple[str, str]] = Counter()
    packs: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    begins: dict[tuple[str, str], float] = {}
    ends: dict[tuple[str, str], float] = defaultdict(float)
    for pack in forecast.packs:
        keys = [(graph.stage_of(node), graph.job(node).config.method) for node in pack.nodes]
        packs.update(set(keys))
        for key in keys:
            jobs[key] += 1
            seconds[key] += (pack.end - pack.begin) / len(keys)
            begins.setdefault(key, pack.begin)
            ends[key] = max(ends[key], pack.end)
    found = [Slice(*key, jobs[key], packs[key], seconds[key], begins[key], ends[key]) for key in jobs]
    return sorted(found, key=lambda item: -item.device_seconds)
