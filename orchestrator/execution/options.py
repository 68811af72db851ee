"""What a launch may choose beyond the sweep file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How one launch of a sweep proceeds. None of it changes a result."""

    only: str | None = None
    """Regular expression: run the nodes that match, and the nodes that they need."""
    nodes: frozenset[str] | None = None
    """Run these nodes and the nodes that they need, in place of `only`."""
    force: bool = False
    """Train the matching nodes again, or all nodes without `only`."""
    cpus: int | None = None
    gpus: int | None = None
    dashboard: bool = False
    hours: float | None = None
    """The most hours of this run, in place of the file's `budget.hours`."""
    device_hours: float | None = None
    """The same for `budget.device_hours`."""
    progress: bool = True
    """Whether to show how far the run is, besides what it says at its start and end."""
    max_failures: int = 3
    """How often a job whose worker dies is started again."""
    first_pause: float = 1.0
    """Seconds before the first new start: short, since a passing trouble is soon over. Later starts wait longer."""
    train: str = "scalearn.training.loop:train"
    """The training function that workers import, as `module:function`."""
