"""What a sweep file may say: one pydantic model per block, with the ranges of values that `scalearn.config` does not define.

Names of tasks, methods and backbones are checked in `orchestrator.definition.check`, which reads the registries.
"""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Discriminator, Field, Tag, create_model

from scalearn.config import Count, Length, OptimisationConfig, Rate, Share, Stage

DEFAULT = "default"
"""Key of a per-task mapping that stands for all tasks that are not named."""


def _as_mapping(value: Any) -> Any:
    """Read `2000` as `{default: 2000}`, so that one value for all tasks and one value per task have the same type."""
    return value if isinstance(value, dict) else {DEFAULT: value}


def _as_tuple(value: Any) -> Any:
    """Read one value as a list of one."""
    return tuple(value) if isinstance(value, list) else (value,)


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_block(value: Any) -> Any:
    """Read a key without a value (`adapter:`) as an empty block."""
    return {} if value is None else value


def _as_rows(value: Any) -> Any:
    """Read one block as a list of one, since a method may have several rows with different sources or settings."""
    rows = tuple(value) if isinstance(value, list) else (value,)
    return tuple(_as_block(row) for row in rows)


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed), Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
SeedsPerTask = Annotated[dict[Name, Seeds], BeforeValidator(_as_mapping)]


class Block(BaseModel):
    """A mapping in which every key is known and every value has exactly the right type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _fields_of(config: type) -> dict[str, Any]:
    """Return the fields of a configuration's dataclass with their ranges and defaults. Fields without a default may be left out."""
    found = get_type_hints(config, include_extras=True)
    defaults = {item.name: item.default for item in fields(config)}
    return {name: (found[name], default) if default is not MISSING else (found[name] | None, None) for name, default in defaults.items()}


if TYPE_CHECKING:
    _OptimisationFields = Block
else:
    _OptimisationFields = create_model("_OptimisationFields", __base__=Block, **_fields_of(OptimisationConfig))


class Optimisation(_OptimisationFields):
    """Values that override the method's published ones. Values that are not given stay (`scalearn.config.OptimisationConfig`)."""

    def given(self) -> dict[str, Any]:
        """Return only the values in the file, by name of the optimisation field. A null learning rate counts as not given."""
        stated = {name: getattr(self, name) for name in Optimisation.model_fields if name in self.model_fields_set}
        return {name: value for name, value in stated.items() if (name, value) != ("learning_rate", None)}


OptimisationBlock = Annotated[Optimisation, BeforeValidator(_as_block)]


class StageTraining(Optimisation):
    """Optimisation for all jobs, and for the jobs of one stage."""

    source: OptimisationBlock = Optimisation()
    transfer: OptimisationBlock = Optimisation()
    joint: OptimisationBlock = Optimisation()
    single: OptimisationBlock = Optimisation()

    def of(self, stage: Stage) -> dict[str, Any]:
        """Return the values for a stage. Those in the stage's own block win."""
        block: Optimisation = getattr(self, stage)
        return {**self.given(), **block.given()}


class Training(StageTraining):
    """The `training` block."""

    tasks: Annotated[dict[Name, Annotated[StageTraining, BeforeValidator(_as_block)]], BeforeValidator(_as_block)] = Field(default={})
    """Optimisation for the jobs of one task, by short name or full key."""


class Data(Block):
    """The `data` block: which rows the jobs read."""

    root: Name | None = None
    """Directory with `<benchmark>/<task>/<split>.parquet`, relative to the working directory. None: the hub, or the task's package."""
    train_rows: Annotated[dict[Name, Count | None], BeforeValidator(_as_mapping)] = {}
    evaluation_rows: Annotated[dict[Name, Count | None], BeforeValidator(_as_mapping)] = {}
    max_length: Annotated[dict[Name, Length], BeforeValidator(_as_mapping)] = {}
    """Tokens, by task. For tasks that are not given, the task's own number."""
    template: Annotated[dict[Name, Name], BeforeValidator(_as_mapping)] = {}
    train_share: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """Shares of the target's training rows, one sweep point each. Other tasks keep all rows."""
    few_shot: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """Numbers of the target's training rows, one sweep point each. Other tasks keep all rows."""


class Sources(Block):
    """The `sources` block: the adapters that every transfer job stacks."""

    method: Literal["adapter", "lora"] = "adapter"
    """What the sources are, by the method that trains them."""
    tasks: Annotated[tuple[Name, ...], BeforeValidator(_listed)] | None = None
    """Tasks in the order in which their adapters are stacked. Empty if `adapters` are enough. None: the whole benchmark."""
    adapters: Annotated[dict[Name, Name], BeforeValidator(_as_block)] = {}
    """Existing adapters, by the name under which they are stacked: a directory, or a hub id `owner/adapter[@revision]`. An adapter with the
    name of a task replaces that task's own. The others come after the tasks."""
    allow_pickle: bool = False
    """Whether adapters with pickled weights are accepted. Never part of a job's identity."""
    seed: Seed = 0
    """Seed of every source adapter, whatever the transfer job's seed, as in the published scripts."""
    settings: Annotated[dict[Name, Any], BeforeValidator(_as_block)] = {}
    """Settings of that method."""


class Subsets(Block):
    """Random subsets of the sweep's sources."""

    sizes: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """Numbers of sources, those of `always` included."""
    draws: Count = 1
    """How many different subsets of each size. All there are, if they are fewer."""
    seed: Seed = 0
    always: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    """Sources of every subset, by name. `target` means the target's own."""
    never: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    """Sources of no subset."""
    nested: bool = False
    """Whether the smaller subsets of a draw are parts of its larger ones."""


class SourceSets(Block):
    """Several lists of sources, made from the sweep's. Each gives jobs of its own. Exactly one of the keys is given."""

    subsets: Subsets | None = None
    leave_out: Count | None = None
    """Every list that lacks so many of the sweep's sources."""


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict | SourceSets) else "a list"


RowSources = Annotated[Annotated[Names, Tag("a list")] | Annotated[SourceSets, Tag("a mapping")], Discriminator(_kind)]
"""The names of the tags appear in the paths of errors, so they must be no keys of a file."""

ValuesPerName = Annotated[dict[Name, Any], BeforeValidator(_as_block)]


class MethodRow(Optimisation):
    """One row of the table: a method, and its differences from the published settings."""

    learning_rate: Annotated[tuple[Rate, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """One or several. The best on validation is reported."""
    seeds: SeedsPerTask | None = None
    """None: the sweep's seeds."""
    sources: RowSources | None = None
    """Tasks and names of `sources.adapters` that are stacked. `target` means the target's own. None: the sweep's sources."""
    settings: ValuesPerName = Field(default={})
    """The method's own settings. A list gives one job per value."""
    grid: ValuesPerName = Field(default={})
    """Lists of values, by the name of a setting or of a field of `Optimisation`. Every combination gives jobs."""
    zip: ValuesPerName = Field(default={})
    """The same, but the values at the same place in all lists go together (`orchestrator.definition.combinations`)."""


class Resources(Block):
    """What Ray sets aside for one trial. Never part of a job's identity."""

    cpu: Annotated[float, Field(gt=0, le=4096)] = 1.0
    """CPUs. Also the number of threads of the process, rounded down to at least 1."""
    gpu: Annotated[float, Field(ge=0, le=1024)] | None = None
    """A fraction of one GPU, or a whole number. None: 1 if the cluster has GPUs, so that one file serves a laptop and a cluster."""
    memory: Annotated[ByteSize, Field(ge=1, le=2**60)] | None = None
    """Bytes, or text such as `8 GiB`. None: Ray counts no memory for the job."""
    custom: Annotated[dict[Name, Annotated[float, Field(gt=0, le=1e9)]], BeforeValidator(_as_block)] = {}
    """Custom resources, by the names that were given when the cluster was started."""
    accelerator_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Ray's name of the accelerator that the node must have, for example `A100`."""


ResourcesBlock = Annotated[Resources, BeforeValidator(_as_block)]


class StageResources(Block):
    """The `resources` block."""

    attention: Literal["eager", "sdpa"] = "eager"
    """The backbone's attention, in all jobs. Where rows are padded, `sdpa` saves memory on long inputs, and draws its dropout from one
    common stream."""
    gradient_checkpointing: bool = False
    """Whether the backbone's activations are computed again in the backward pass instead of being kept."""
    source: ResourcesBlock = Resources()
    transfer: ResourcesBlock = Resources()
    joint: ResourcesBlock = Resources()
    single: ResourcesBlock = Resources()
    similarity: ResourcesBlock = Resources()
    methods: Annotated[dict[Name, ResourcesBlock], BeforeValidator(_as_block)] = {}
    """Differences from the stage's block, by key of the method registry."""

    def of(self, stage: Stage, method: str | None = None) -> Resources:
        """Return what a trial of a stage needs, or of one method in the stage. Values in the method's block win."""
        resources: Resources = getattr(self, stage)
        own = self.methods.get(method) if method is not None else None
        return resources if own is None else resources.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class Packing(Block):
    """The `packing` block: how many jobs train together in one process. Never part of a job's identity."""

    size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """The most jobs in a pack. `auto`: as many as fit the device's memory and as were measured to save time."""
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that a pack may fill."""

    profile: Name | None = None
    """A device's speed, as for `plan --profile`. None: a shipped profile of the same kind of device, CPU or GPU."""

    @property
    def limit(self) -> int | None:
        """The most jobs in a pack. None: decided by measurement."""
        return None if self.size == "auto" else self.size


class Tracking(Block):
    """The `tracking` block: where runs are logged. Never part of a job's identity."""

    experiment: Name | None = None
    """MLflow experiment. None: the sweep's name."""
    uri: Name | None = None
    """Tracking URI. None: `MLFLOW_TRACKING_URI`, or an SQLite file in the store."""


class SweepSchema(Block):
    """The whole file."""

    extends: None = None
    """Another file as the basis. `orchestrator.definition.basis` has put the two together before anything is validated."""
    name: Name
    benchmark: Name
    backbone: Name
    """A registered name, a hub id, or a local directory (`scalearn.backbone.registry`)."""
    description: Annotated[str, Field(max_length=2000)] = ""
    store: Name = "runs"
    """Where artifacts go: a path relative to the working directory, or the URL of an object store."""
    tasks: Annotated[dict[Name, dict[Name, Any]], BeforeValidator(_as_block)] = {}
    """The user's own tasks, by name within the benchmark or by full key (`scalearn.tasks.user_task` describes a definition)."""
    data: Annotated[Data, BeforeValidator(_as_block)] = Data()
    sources: Annotated[Sources, BeforeValidator(_as_block)] = Sources()
    targets: Names | None = None
    """Tasks in the order of the table's columns. None: the whole benchmark."""
    seeds: SeedsPerTask = {DEFAULT: (0,)}
    methods: Annotated[
        dict[Name, Annotated[tuple[MethodRow, ...], BeforeValidator(_as_rows), Field(min_length=1)]],
        Field(min_length=1),
    ]
    """Rows of the table in order, by key of the method registry."""
    training: Annotated[Training, BeforeValidator(_as_block)] = Training()
    resources: Annotated[StageResources, BeforeValidator(_as_block)] = StageResources()
    packing: Annotated[Packing, BeforeValidator(_as_block)] = Packing()
    tracking: Annotated[Tracking, BeforeValidator(_as_block)] = Tracking()
