"""What a run may spend and has spent, and the order in which a short budget is spent: table cell by table cell. Pure Python."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from orchestrator.definition.comparison import compared_group
from orchestrator.definition.graph import DONE, Graph
from orchestrator.definition.schema import Budget
from orchestrator.scheduling.policy import Policy

LOOK_SECONDS = 5.0
"""Seconds between two looks whether the budget is short, since a look counts all jobs that are left."""


@dataclass
class _Trial:
    devices: float
    seconds: float
    """How long it is expected to take."""
    begun: float | None = None
    """When it got its device. None: it waits for one."""

    @property
    def device_seconds(self) -> float:
        """Device seconds that it is expected to take."""
        return self.seconds * self.devices


class Spending:
    """The clock and the device clock of one run. A pack is charged from when it has a device until it ends."""

    def __init__(
        self, budget: Budget, devices: Callable[[str], float], *, begun: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to count.

        Args:
            budget: What the run may take.
            devices: Returns how many devices a job has, or its part of one.
            begun: When the run began, on the clock.
            clock: Returns seconds.
        """
        self._seconds = math.inf if budget.hours is None else budget.hours * 3600
        self._device_seconds = math.inf if budget.device_hours is None else budget.device_hours * 3600
        self.devices, self._begun, self._clock = devices, begun, clock
        self._trials: dict[str, _Trial] = {}
        self._spent = self._promised = 0.0
        self._looked = -math.inf
        self._short = False

    @property
    def is_limited(self) -> bool:
        """Whether there is any budget."""
        return min(self._seconds, self._device_seconds) < math.inf

    def follow(self, policy: Policy, graph: Graph) -> None:
        """Let a policy spend the budget cell by cell, from the moment at which it is too short for all that is left."""
        now = self._clock()
        if self._short or not self.is_limited or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        time_left, device_time_left = self._left(now)
        if policy.horizon(now) > time_left or (device_time_left < math.inf and policy.left(self.devices)[1] > device_time_left):
            self._short = True
            policy.rank(cell_by_cell(graph, policy.share))

    def admits(self, node: str, wait: float, seconds: float) -> bool:
        """Tell whether a pack is expected to end within the budget, as `policy.Admits` says."""
        time_left, device_time_left = self._left(self._clock())
        return wait + seconds <= time_left and self.devices(node) * seconds <= device_time_left

    def ever_admits(self, node: str, seconds: float) -> bool:
        """Tell whether a job alone would be admitted if nothing were spent."""
        return seconds <= self._seconds and self.devices(node) * seconds <= self._device_seconds

    def handed_out(self, trial: str, node: str, seconds: float) -> None:
        """Learn that Tune has a pack.

        Args:
            trial: The trial.
            node: Its first job.
            seconds: How long it is expected to take.
        """
        self._trials[trial] = _Trial(self.devices(node), seconds)
        self._promised += self._trials[trial].device_seconds

    def started(self, trial: str) -> None:
        """Learn that a pack has a device."""
        if trial in self._trials:
            self._trials[trial].begun = self._clock()

    def ended(self, trial: str) -> None:
        """Learn that a pack has ended."""
        if (ended := self._trials.pop(trial, None)) is not None:
            self._promised -= ended.device_seconds
            self._spent += 0.0 if ended.begun is None else (self._clock() - ended.begun) * ended.devices

    def is_over(self) -> bool:
        """Tell whether the time is up. Any thread may ask."""
        seconds, device_seconds = self.spent()
        return seconds >= self._seconds or device_seconds >= self._device_seconds

    def spent(self) -> tuple[float, float]:
        """Return the seconds since the run began, and the device seconds of its packs."""
        now = self._clock()
        running = [(now - trial.begun) * trial.devices for trial in list(self._trials.values()) if trial.begun is not None]
        return now - self._begun, self._spent + sum(running)

    def _left(self, now: float) -> tuple[float, float]:
        """Return the seconds that are left, and the device seconds that no pack is expected to take."""
        return self._begun + self._seconds - now, self._device_seconds - self._spent - self._promised


def cell_by_cell(graph: Graph, share: Callable[[str], float]) -> dict[str, int]:
    """Return a rank for each job that is not done, so that in order of rank cells of the table are completed one after the other.

    A cell is one method's result on one target: jobs that differ in learning rate and seed alone. Cells that have a job done or running
    come first. Among these, and among the others, the cell that needs the least device time comes next; sources that an earlier cell
    needs cost a later one nothing.

    Args:
        graph: The jobs and their states.
        share: Returns the device seconds of a job.
    """
    cells: dict[str, list[str]] = defaultdict(list)
    for job in graph:
        if not graph.children(job.node):
            cells[compared_group(job)].append(job.node)
    needs = {cell: _undone(graph, nodes) for cell, nodes in cells.items()}
    users: dict[str, list[str]] = defaultdict(list)
    for cell, nodes in needs.items():
        for node in nodes:
            users[node].append(cell)
    opened = {cell: any(graph.states[node] in DONE or graph.states[node] == "running" for node in nodes) for cell, nodes in cells.items()}
    left = {cell: sum(map(share, nodes)) for cell, nodes in needs.items()}
    place = {cell: number for number, cell in enumerate(cells)}
    heap = [(not opened[cell], left[cell], place[cell], cell) for cell in cells]
    heapify(heap)
    ranks: dict[str, int] = {}
    reached: set[str] = set()
    while heap:
        _, seconds, _, cell = heappop(heap)
        if cell in reached or seconds != left[cell]:  # an entry from before a cell that shares a source was reached
            continue
        reached.add(cell)
        cheaper = set()
        for node in needs[cell]:
            if node not in ranks:
                ranks[node] = len(reached)
                for user in users[node]:
                    left[user] -= share(node)
                    cheaper.add(user)
        for user in cheaper - reached:
            heappush(heap, (not opened[user], left[user], place[user], user))
    return ranks


def _undone(graph: Graph, nodes: list[str]) -> dict[str, None]:
    """Return those of some jobs, and of all that they need, that are not done."""
    found: dict[str, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found and graph.states[node] not in DONE:
            found[node] = None
            stack.extend(graph.parents(node))
    return found
