"""Where and how a pack of jobs runs: nothing here changes what a job is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
    shared_passes: bool | None = None
    """Whether the rows of all jobs of a pack go through the backbone together. None: on a GPU, where small products wait for one another.
    Otherwise the jobs take turns, and each ends with the same bits as alone: how a product is rounded depends on its number of rows."""
    micro_batch_rows: int | None = None
    """Most rows in one pass; larger batches are accumulated. None: the whole batch, halved when memory runs out."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    allow_pickle: bool = False
    """Whether source adapters with pickled weights are accepted."""
    should_stop: Callable[[], bool] | None = None
    """Asked a few times a second between passes; when it says so, all jobs write a checkpoint and `pack.Stop` is raised. None: never."""
