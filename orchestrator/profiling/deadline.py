"""Which measurements of a profile fit into the time: first those that a profile needs, then those that tell most."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

ESSENTIAL = ("adapter", "scalearn")
"""Methods that every profile needs."""

SECONDS = 110.0
"""Default duration of profiling: under two minutes with the start of the command itself."""

_UNKNOWN = 1.5
"""How many times longer than another method an unmeasured one may take, without its warm-up."""

T = TypeVar("T")
Shape = tuple[str, int, int]
"""Method, number of jobs, tokens per row."""


@dataclass(frozen=True)
class Extent:
    """The measurements to make if there is time."""

    lengths: tuple[int, int]
    """Tokens per row. Larger packs are measured only at the first length."""
    packs: tuple[int, ...]
    """Numbers of jobs per pack, from 1."""
    methods: tuple[str, ...]
    """Methods, with the essential ones first."""
    steps: int
    """Steps of one measurement."""
    rounds: int
    """How often each pack is measured. The fastest counts, since others may use the machine too."""


@dataclass(frozen=True)
class Taken(Generic[T]):
    """The measurements that were made."""

    points: dict[str, list[list[T]]]
    """For each method, the rounds of every shape."""
    left_out: tuple[str, ...]
    """What there was no time for, in words."""


class Deadline:
    """A moment on a clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            seconds: Seconds from now.
            clock: Seconds on any clock.
        """
        self.clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the remaining seconds, negative after the deadline."""
        return self._end - self.clock()

    def share(self, parts: int) -> "Deadline":
        """Return the deadline of one of so many equal parts of the remaining time. Time that it does not use stays for the others."""
        return Deadline(max(0.0, self.left()) / parts, self.clock)


def take(measure: Callable[[str, int, int, int], T], extent: Extent, deadline: Deadline) -> Taken[T]:
    """Measure as much as there is time for. Essential measurements are always made.

    Args:
        measure: Trains a pack: method, jobs, tokens per row, steps.
        extent: What to measure.
        deadline: The first measurement that would probably end later is left out, with all that tell less.
    """
    points: dict[str, dict[tuple[int, int], list[T]]] = {}
    seconds: dict[Shape, float] = {}

    def one(method: str, jobs: int, length: int, steps: int) -> None:
        began = deadline.clock()
        point = measure(method, jobs, length, steps)
        seconds[method, jobs, length] = deadline.clock() - began
        points.setdefault(method, {}).setdefault((jobs, length), []).append(point)

    short, long = extent.lengths
    one(ESSENTIAL[0], 1, short, 1)
    # The time around the steps is counted with each step, so both are upper bounds.
    least = len(ESSENTIAL) * seconds[ESSENTIAL[0], 1, short]
    hurried = least * (1 + long / short) > deadline.left()
    if hurried:
        long = min(long, 2 * short)
    steps = max(1, min(extent.steps, int(deadline.left() / (least * (1 + long / short))))) if least else extent.steps
    if steps > 1:  # a point with fewer steps is not comparable
        points.clear()
    for method in extent.methods:
        if method in ESSENTIAL:
            if not hurried and method != ESSENTIAL[0]:
                measure(method, 1, short, 1)  # warms up
            for length in (short, long):
                if (1, length) not in points.get(method, {}):
                    one(method, 1, length, steps)
    left = _by_worth(extent, short, long)
    while left and _expected(seconds, left[0]) <= deadline.left():
        group = left.pop(0)
        if group[0][0] not in points:
            measure(group[0][0], 1, short, 1)  # warms up
        for shape in group:
            one(*shape, steps)
    left_out = [f"{extent.steps - steps} of {extent.steps} steps a pack"] if steps < extent.steps else []
    left_out += [f"{extent.lengths[1]} tokens ({long} in their place)"] if hurried and long < extent.lengths[1] else []
    return Taken({method: list(shapes.values()) for method, shapes in points.items()}, (*left_out, *_name(left, points)))


def _by_worth(extent: Extent, short: int, long: int) -> list[list[Shape]]:
    """Return the measurements that are not essential, most telling first, in groups that are useful only as a whole."""
    larger = [jobs for jobs in extent.packs if jobs > 1]
    others = [method for method in extent.methods if method not in ESSENTIAL]
    first: list[list[Shape]] = [[(method, jobs, short)] for jobs in larger for method in ESSENTIAL]
    first += [[(method, 1, length) for length in (short, long)] for method in others]
    first += [[(method, jobs, short)] for jobs in larger for method in others]
    shapes = [(1, short), (1, long), *((jobs, short) for jobs in larger)]
    return first + [[(method, *shape)] for shape in shapes for method in extent.methods] * (extent.rounds - 1)


def _expected(seconds: dict[Shape, float], group: Sequence[Shape]) -> float:
    """Return how long measurements will take, by earlier ones. More tokens take longer, at most in proportion."""

    def of(method: str, jobs: int, length: int) -> float:
        if (method, jobs, length) in seconds:
            return seconds[method, jobs, length]
        own = {shape: taken for shape, taken in seconds.items() if shape[0] == method}
        bounds = (taken * max(1.0, jobs * length / (count * tokens)) for (_, count, tokens), taken in (own or seconds).items())
        return min(bounds) * (1.0 if own else _UNKNOWN)

    return sum(of(*shape) for shape in group)


def _name(left: Sequence[Sequence[Shape]], points: dict[str, dict[tuple[int, int], list[T]]]) -> list[str]:
    """Return in words what was left out: methods, packs, and numbers of repetitions."""
    shapes = [shape for group in left for shape in group]
    names = []
    for method in dict.fromkeys(method for method, _, _ in shapes):
        missing = {jobs for kind, jobs, length in shapes if kind == method and (jobs, length) not in points.get(method, {})}
        if method not in points:
            names.append(method)
        elif missing:
            names.append(f"packs of {' and '.join(map(str, sorted(missing)))} of {method}")
    again = sum((jobs, length) in points.get(method, {}) for method, jobs, length in shapes)
    return [*names, *([f"{again} repetitions"] if again else [])]
