"""A pack: the jobs that train together, how each of them ended, and what they report in the meantime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalearn.config import JobConfig
from scalearn.errors import UserError


@dataclass(frozen=True)
class PackMember:
    """One job of a pack, and where the job reads and writes."""

    config: JobConfig
    directory: Path
    """Local directory for history, checkpoints and results. It must exist."""
    parents: Mapping[str, Path] = field(default_factory=dict)
    """Artifact directory of every parent job, by name. Source adapters, also those of `config.external`, have their source name or hub
    id."""


class Stop(Exception):
    """Training has written checkpoints and ended, as `Runtime.should_stop` asked. The report callback may raise it to ask the same."""


class OutOfMemory(UserError):
    """The device does not hold a pack, in however many passes. Half of the pack may fit, or each job alone."""


@dataclass(frozen=True)
class Outcome:
    """How one job of a pack ended."""

    member: PackMember
    error: str | None = None
    """One sentence. None: the job succeeded, and its `result.json` is written."""
    traceback: str | None = None


Report = Callable[[PackMember, Mapping[str, Any]], bool | None]
"""Called after every evaluation with a job and its newest record. True ends the job, which is then judged by its best evaluation."""
