"""A simulation of the scheduling policy on devices that do not exist, event by event. The live searcher uses the same policy."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from orchestrator.definition.graph import DONE, Graph, Job
from orchestrator.definition.resources import Shape, devices_of, placement_of
from orchestrator.forecast.idle_devices import IdleDevices
from orchestrator.scheduling.cost import CostModel, Estimate
from orchestrator.scheduling.pack_key import pack_key
from orchestrator.scheduling.paths import remaining_paths
from orchestrator.scheduling.policy import Entry, Policy
from orchestrator.scheduling.turns import LOOKAHEAD, Turns
from scalearn.errors import UserError

MakePolicy = Callable[[Graph, CostModel, int, Callable[[Job], Hashable]], Policy]


@dataclass(frozen=True)
class Played:
    """One pack that has run in the simulation."""

    nodes: tuple[str, ...]
    device: int
    """The first device, if the pack has several."""
    begin: float
    """Seconds since the start of the sweep."""
    end: float
    amount: float = 1.0
    """Devices that the pack has: a part of one, or several."""

    @property
    def device_seconds(self) -> float:
        """Device seconds that the pack takes."""
        return (self.end - self.begin) * self.amount


@dataclass(frozen=True)
class Bounds:
    """Lower bounds that no schedule can beat, whatever its packs."""

    critical_path: float
    """Seconds of the longest chain of jobs, if each could start at once and alone on a device."""
    work: float
    """Device seconds of all jobs, each in the largest pack that it can find."""
    devices: int

    @property
    def makespan(self) -> float:
        """The larger of critical path and work over devices."""
        return max(self.critical_path, self.work / self.devices)


@dataclass(frozen=True)
class Forecast:
    """The result of simulating a sweep to its end."""

    packs: tuple[Played, ...]
    devices: int
    bounds: Bounds

    @property
    def makespan(self) -> float:
        """Seconds from the start of the first job to the end of the last."""
        return max((pack.end for pack in self.packs), default=0.0)

    @property
    def device_seconds(self) -> float:
        """Device seconds that all packs take."""
        return sum(pack.device_seconds for pack in self.packs)

    @property
    def utilisation(self) -> float:
        """Share of the devices' time until the end that packs take."""
        return self.device_seconds / (self.devices * self.makespan) if self.makespan else 0.0

    @property
    def over_bound(self) -> float:
        """Makespan divided by its lower bound. The best possible value is 1."""
        return self.makespan / self.bounds.makespan if self.bounds.makespan else 1.0


def whole(job: Job) -> Shape:
    """Return the resources of a trial that has a device to itself."""
    return {"GPU": 1.0}


def simulate(
    graph: Graph,
    cost: CostModel,
    devices: int,
    policy: MakePolicy = Policy,
    *,
    shape: Callable[[Job], Shape] = whole,
    noise: float = 0.0,
    seed: int = 0,
) -> Forecast:
    """Simulate a sweep as the live searcher runs it, with lookahead and turns. The graph is marked as in a run.

    Args:
        graph: The jobs, with those that are done marked so.
        cost: Estimates the durations.
        devices: Number of devices.
        policy: Decides which jobs run next.
        shape: Returns the resources of a job's trial, by Ray's names. A job without a GPU takes a whole device. CPUs, memory and other
            resources are never short.
        noise: Standard deviation of the logarithm of true over expected duration. The policy only knows the expected one.
        seed: Seed of the noise.

    Raises:
        UserError: A job needs more devices than there are.
    """
    bounds = lower_bounds(graph, cost, devices, shape)
    there = [{"GPU": float(devices)}]
    amounts = _amounts(graph, shape)
    if (largest := max(amounts.values(), default=0.0)) > devices:
        raise UserError(f"A job needs {largest:g} GPUs and the plan has {devices}: lower `resources` in the sweep file, or plan for more.")
    if not amounts:
        return Forecast((), devices, bounds)
    turns = Turns({placement: {"GPU": amount} for placement, amount in amounts.items()}, lambda: there)
    player = policy(graph, cost, max(turns.room.values()), lambda job: placement_of(shape(job)))
    player.bound(turns.room, LOOKAHEAD)
    chance, idle = random.Random(seed), IdleDevices(devices)
    waiting: dict[str, tuple[str, ...]] = {}
    running: dict[str, tuple[tuple[int, ...], int]] = {}
    """For each trial, its devices and its place in the list of packs."""
    events: list[tuple[float, int, str]] = []
    packs: list[Played] = []
    now, trials = 0.0, 0
    while True:
        for trial, nodes in list(waiting.items()):
            placement = player.apart(nodes[0])
            if (place := idle.take(placement, amounts[placement])) is None:
                continue
            on, warm = place
            seconds = cost.seconds([player.estimate(node) for node in nodes])
            seconds *= chance.lognormvariate(0.0, noise) if noise else 1.0
            seconds += 0.0 if warm else cost.worker_seconds
            turns.started(trial)
            heappush(events, (now + seconds, len(packs), trial))
            running[trial] = on, len(packs)
            packs.append(Played(nodes, on[0], now, now + seconds, amounts[placement]))
            del waiting[trial]
        free = max(0, player.slots - len(waiting) - len(running))
        if taken := player.take(free, now, turns.held_back(now)):
            trial, trials = str(trials), trials + 1
            turns.handed_out(trial, player.apart(taken[0]))
            for node in taken:
                graph.mark(node, "running")
            waiting[trial] = taken
            continue
        if not events:
            return Forecast(tuple(packs), devices, bounds)
        now, _, ended = heappop(events)
        on, number = running.pop(ended)
        placement = player.apart(packs[number].nodes[0])
        idle.give_back(on, placement, amounts[placement])
        turns.ended(ended)
        player.ended(packs[number].nodes)
        for node in packs[number].nodes:
            graph.mark(node, "succeeded")
            player.succeeded(node)


def _amounts(graph: Graph, shape: Callable[[Job], Shape]) -> Mapping[Hashable, float]:
    """Return the devices that a trial takes, by placement, for jobs that are not done."""
    shapes = [shape(job) for job in graph if graph.states[job.node] not in DONE]
    return {placement_of(one): devices_of(one) for one in shapes}


def lower_bounds(graph: Graph, cost: CostModel, devices: int, shape: Callable[[Job], Shape] = whole) -> Bounds:
    """Return bounds that no schedule of the remaining jobs can beat.

    Args:
        graph: The jobs, with those that are done marked so.
        cost: Estimates the durations.
        devices: Number of devices.
        shape: As for `simulate`.
    """
    estimates = {job.node: cost.estimate(job) for job in graph}
    by_pack_key: dict[tuple[Hashable, Hashable], list[Estimate]] = defaultdict(list)
    amounts: dict[Hashable, float] = {}
    for job in graph:
        if graph.states[job.node] not in DONE:
            placement = placement_of(one := shape(job))
            amounts[placement] = devices_of(one)
            by_pack_key[placement, pack_key(job, cost.size)].append(estimates[job.node])
    if not by_pack_key:
        return Bounds(0.0, 0.0, devices)
    paths = remaining_paths(graph, estimates)
    path = max(paths[job.node] for job in graph if graph.states[job.node] not in DONE)
    work = sum(amounts[placement] * least_work(members) for (placement, _), members in by_pack_key.items())
    return Bounds(path + cost.worker_seconds, work, devices)


def least_work(members: Sequence[Estimate]) -> float:
    """Return the least device seconds of any packing of jobs of one kind.

    The cost that jobs share per step is lowest if the jobs with the most steps share packs. All other cost is each job's own.
    """
    largest = max(member.largest_pack for member in members)
    fixed = min(member.train.fixed for member in members)
    fixed_evaluation = min(member.evaluate.fixed for member in members)
    own = sum(member.seconds - member.steps * member.train.fixed - member.passes * member.evaluate.fixed for member in members)
    steps = sorted((member.steps for member in members), reverse=True)[::largest]
    passes = sorted((member.passes for member in members), reverse=True)[::largest]
    return own + fixed * sum(steps) + fixed_evaluation * sum(passes)


class FirstCome(Policy):
    """A plain queue, for comparison: jobs start in the order in which they became ready, in packs spread over the idle devices."""

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

    def _mates(self, head: Entry, idle: int, horizon: float, wait: float) -> list[Entry]:
        return super()._mates(head, idle, float("inf"), wait)


class Barrier(Policy):
    """The same policy with a barrier, for comparison: the second stage starts only when the whole first stage is done."""

    def take(self, idle: int = 1, now: float = 0.0, closed: Container[Hashable] = ()) -> tuple[str, ...]:
        """See `Policy.take`."""
        if not hasattr(self, "_first"):
            # Whatever else the sweep has, the barrier waits only for jobs that some transfer job needs.
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
    """Return what each stage and method takes, largest first. A pack of several methods counts for each, with equal shares of its time."""
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
            seconds[key] += pack.device_seconds / len(keys)
            begins.setdefault(key, pack.begin)
            ends[key] = max(ends[key], pack.end)
    found = [Slice(*key, jobs[key], packs[key], seconds[key], begins[key], ends[key]) for key in jobs]
    return sorted(found, key=lambda item: -item.device_seconds)
