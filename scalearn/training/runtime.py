"""Where and how a pack of jobs runs. Nothing here changes what a job is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Runtime:
    """The circumstances of a worker."""

    data_root: Path | None = None
    """Local directory of the benchmarks' files. None: they come from the hub, or from an installed package."""
    cache: Path | None = None
    """Directory for tokenised data. None: the data is kept in memory."""
    device: str = "auto"
    """`auto` uses CUDA if there is a GPU, otherwise the CPU."""
    threads: int | None = None
    """CPU threads of this process: the number of its CPUs. None: torch's own number."""
    attention: Literal["eager", "sdpa"] = "eager"
    """`eager` draws attention dropout from each job's own random stream. `sdpa` saves memory on long
    inputs. Where rows need no padding, as on a CPU, both compute alike."""
    checkpoint_seconds: float = 60.0
    """The most training time that a killed job repeats. Every evaluation also leaves a checkpoint."""
    shared_passes: bool | None = None
    """Whether the rows of all jobs of a pack go through the backbone together. None: on a GPU, where small products wait for one another.
    Otherwise the jobs take turns, and each gives the same bits as alone, since rounding in a product depends on its number of rows."""
    micro_batch_rows: int | None = None
    """The most rows in one pass; larger batches are accumulated. None: the whole batch, halved when memory runs out."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    allow_pickle: bool = False
    """Whether source adapters with pickled weights are accepted."""
    should_stop: Callable[[], bool] | None = None
    """Called a few times a second, between passes. If it is true, all jobs write a checkpoint and `pack.Stop` is raised. None: never."""
