"""Where and how a pack of jobs runs: nothing here changes what a job is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True)
class Runtime:
    """The worker's circumstances."""

    data_root: Path | None = None
    """Local directory of the benchmarks' files. None: the hub, or an installed package."""
    cache: Path | None = None
    """Where tokenised data is kept. None: in memory."""
    device: str = "auto"
    """`auto` takes CUDA where there is one, otherwise the CPU."""
    threads: int | None = None
    """CPU threads of this process: the CPUs allotted to it. None: as they are."""
    attention: Literal["eager", "sdpa"] = "eager"
    """`eager` keeps attention dropout on each job's own random stream; `sdpa` saves memory on long inputs."""
    checkpoint_seconds: float = 60.0
    """Longest training time that a killed job repeats; every evaluation also leaves a checkpoint."""
    micro_batch_rows: int | None = None
    """Most rows in one pass; larger batches are accumulated. None: the whole packed batch, halved when memory runs out."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    allow_pickle: bool = False
    """Whether source adapters with pickled weights are accepted."""
    should_stop: Callable[[], bool] | None = None
    """Asked a few times a second between passes; when it says so, all jobs write a checkpoint and `Stop` is raised. None: never."""


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
