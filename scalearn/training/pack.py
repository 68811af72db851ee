"""A pack: the jobs that train together, how each of them ended, and what is told of them meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalearn.config import JobConfig
from scalearn.errors import UserError


@dataclass(frozen=True)
class PackMember:
    """One job of a pack, and where it reads and writes."""

    config: JobConfig
    directory: Path
    """Existing local directory that receives history, checkpoints and results."""
    parents: Mapping[str, Path] = field(default_factory=dict)
    """Artifact directory of every parent job by name; source adapters by source name, those of `config.external` too (or their hub id)."""


class Stop(Exception):
    """Training wrote checkpoints and left, as `Runtime.should_stop` asked for; the report callback may raise it to the same end."""


class OutOfMemory(UserError):
    """The device does not hold a pack, in however many passes its steps are computed: half of it may fit, and each job alone still more."""


@dataclass(frozen=True)
class Outcome:
    """How one job of a pack ended."""

    member: PackMember
    error: str | None = None
    """One sentence. None: the job succeeded and its `result.json` is written."""
    traceback: str | None = None


Report = Callable[[PackMember, Mapping[str, Any]], bool | None]
"""Called with a job and its newest history record after every evaluation. True ends the job there: it is judged by its best evaluation."""
