"""The graph of jobs on Ray Tune: sweeps, artifacts, tracking and the command line. A program uses `Sweep`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Sweep

__all__ = ["Sweep"]


def __getattr__(name: str) -> Any:
    """Import `Sweep` when it is first used, since workers import this package and need none of it."""
    if name == "Sweep":
        from orchestrator.api import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
