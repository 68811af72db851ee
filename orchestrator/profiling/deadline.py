"""Which measurements of a profile are taken in the time there is: what a profile cannot do without first, then what tells most."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

ESSENTIAL = ("adapter", "scalearn")
"""Methods without which a profile cannot be read."""

SECONDS = 110.0
"""What a profile may take unless told otherwise: under two minutes, the command's own start included."""

_UNKNOWN = 1.5
"""How much longer than another one a method may take that was not measured yet, its warm-up left out."""

T = TypeVar("T")
Shape = tuple[str, int, int]
"""Method, jobs, tokens per row."""


@dataclass(frozen=True)
class Extent:
    """What is measured where time allows it."""

    lengths: tuple[int, int]
    """Tokens per row; larger packs are measured at the first alone."""
    packs: tuple[int, ...]
    """Jobs, from 1."""
    methods: tuple[str, ...]
    """The essential ones first."""
    steps: int
    """Of one measurement."""
    rounds: int
    """How often each pack is measured: the fastest counts, since others may use the machine too."""


@dataclass(frozen=True)
class Taken(Generic[T]):
    """What was measured."""

    points: dict[str, list[list[T]]]
    """By method, for every shape its rounds."""
    left_out: tuple[str, ...]
    """For people: what there was no time for."""


class Deadline:
    """A moment on a clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            seconds: From now.
            clock: Seconds on any clock.
        """
        self.clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left, negative where it is past."""
        return self._end - self.clock()

    def share(self, parts: int) -> "Deadline":
        """Return the deadline of one of so many equal parts of what is left; what it does not use is left to the others."""
        return Deadline(max(0.0, self.left()) / parts, self.clock)


def take(measure: Callable[[str, int, int, int], T], extent: Extent, deadline: Deadline) -> Taken[T]:
    """Measure as much as there is time for. What is essential is measured in any case.

    Args:
        measure: Trains a pack: method, jobs, tokens per row, steps.
        extent: What to measure.
        deadline: The first measurement that would probably end after it is left out, with all that tell less.
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
    # What lies around the steps is counted with each of them, so both are bounds.
    least = len(ESSENTIAL) * seconds[ESSENTIAL[0], 1, short]
    hurried = least * (1 + long / short) > deadline.left()
    if hurried:
        long = min(long, 2 * short)
    steps = max(1, min(extent.steps, int(deadline.left() / (least * (1 + long / short))))) if least else extent.steps
    if steps > 1:  # a point of fewer steps is another one
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
    """Return what is not essential, most telling first, in groups that are of use only together."""
    larger = [jobs for jobs in extent.packs if jobs > 1]
    others = [method for method in extent.methods if method not in ESSENTIAL]
    first: list[list[Shape]] = [[(method, jobs, short)] for jobs in larger for method in ESSENTIAL]
    first += [[(method, 1, length) for length in (short, long)] for method in others]
    first += [[(method, jobs, short)] for jobs in larger for method in others]
    shapes = [(1, short), (1, long), *((jobs, short) for jobs in larger)]
    return first + [[(method, *shape)] for shape in shapes for method in extent.methods] * (extent.rounds - 1)


def _expected(seconds: dict[Shape, float], group: Sequence[Shape]) -> float:
    """Return how long measurements will take, by those before them: longer with more tokens, and at most as much longer."""

    def of(method: str, jobs: int, length: int) -> float:
        if (method, jobs, length) in seconds:
            return seconds[method, jobs, length]
        own = {shape: taken for shape, taken in seconds.items() if shape[0] == method}
        bounds = (taken * max(1.0, jobs * length / (count * tokens)) for (_, count, tokens), taken in (own or seconds).items())
        return min(bounds) * (1.0 if own else _UNKNOWN)

    return sum(of(*shape) for shape in group)


def _name(left: Sequence[Sequence[Shape]], points: dict[str, dict[tuple[int, int], list[T]]]) -> list[str]:
    """Return in words what was left out: methods, packs, and how many repetitions."""
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
