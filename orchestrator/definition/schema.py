"""What a sweep file may say: one pydantic model per block, with the ranges of values that `scalearn.config` does not define.

Names of tasks, methods and backbones are checked in `orchestrator.definition.check`, which reads the registries. The text below each key is
what docs/sweeps.md and the JSON schema say of it (docs/reference.py), so it may hold links as they are written there.
"""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Discriminator, Field, Tag, create_model

from scalearn.config import Count, Length, Measure, OptimisationConfig, Rate, Share, Stage

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
Hours = Annotated[float, Field(gt=0, le=1e6)]


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
    """What differs for source adapters."""
    transfer: OptimisationBlock = Optimisation()
    """What differs for jobs on frozen sources."""
    joint: OptimisationBlock = Optimisation()
    """What differs for jobs that learn all tasks at once."""
    single: OptimisationBlock = Optimisation()
    """What differs for single-task methods other than `adapter` and `lora`, which make source jobs."""

    def of(self, stage: Stage) -> dict[str, Any]:
        """Return the values for a stage. Those in the stage's own block win."""
        block: Optimisation = getattr(self, stage)
        return {**self.given(), **block.given()}


class Training(StageTraining):
    """The `training` block."""

    tasks: Annotated[dict[Name, Annotated[StageTraining, BeforeValidator(_as_block)]], BeforeValidator(_as_block)] = Field(default={})
    """What differs for the jobs of one task, by short name or full key; it may hold blocks of stages."""


class Data(Block):
    """The `data` block: which rows the jobs read."""

    root: Name | None = None
    """A directory with `<benchmark>/<task>/<split>.parquet`, relative to the working directory. None: the rows come from the hub, or from
    the package that ships them."""
    train_rows: Annotated[dict[Name, Count | None], BeforeValidator(_as_mapping)] = {}
    """At most so many training rows, per task. `null`, or not given: all."""
    evaluation_rows: Annotated[dict[Name, Count | None], BeforeValidator(_as_mapping)] = {}
    """At most so many validation rows, and as many test rows, per task. `null`, or not given: all."""
    max_length: Annotated[dict[Name, Length], BeforeValidator(_as_mapping)] = {}
    """Tokens per input, per task. Not given: the task's own number."""
    template: Annotated[dict[Name, Name], BeforeValidator(_as_mapping)] = {}
    """How columns become text, per task. Not given: the task's first template."""
    train_share: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """A share of the *target's* training rows, [before validation rows are drawn from them](protocol.md#splits), in steps of 0.05, or a
    list of shares: one point of a curve each. Smaller shares are nested in larger ones."""
    few_shot: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """So many training rows of the *target*, the first ones, or a list. Not together with `train_share`."""


class Sources(Block):
    """The `sources` block: the adapters that every transfer job stacks."""

    method: Literal["adapter", "lora"] = "adapter"
    """What the sources are: bottleneck adapters, or [LoRAs](#loras-as-sources) with `lora`."""
    tasks: Annotated[tuple[Name, ...], BeforeValidator(_listed)] | None = None
    """The tasks whose adapters are trained and stacked, in that order; `[]` trains none. None: the whole benchmark."""
    adapters: Annotated[dict[Name, Name], BeforeValidator(_as_block)] = {}
    """[Adapters that exist already](#adapters-that-exist-already), by name: a directory, or a hub id `owner/adapter` or
    `owner/adapter@revision`."""
    allow_pickle: bool = False
    """Whether those adapters may hold pickled weights (`pytorch_adapter.bin`), which can run code when they are read."""
    seed: Seed = 0
    """Seed of every source adapter that is trained, whatever the seed of the transfer job."""
    settings: Annotated[dict[Name, Any], BeforeValidator(_as_block)] = {}
    """Settings of that method: `{reduction_factor: 16}`, or `{rank: 8, target_modules: [query, value]}`."""


class Subsets(Block):
    """Random subsets of the sweep's sources."""

    sizes: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """How many sources, those of `always` included: a number, or a list."""
    draws: Count = 1
    """How many different subsets of each size; all there are, if they are fewer."""
    seed: Seed = 0
    """Another seed draws others."""
    always: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    """Sources that every subset has; `target` stands for the target's own."""
    never: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    """Sources that no subset has."""
    nested: bool = False
    """`true`: each draw adds sources to its smaller subset to make the larger one. Draws may then share a subset, which is one job."""


class Unequal(Block):
    """Sources that were trained on poorer rows, dealt at random."""

    rows: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple)] = ()
    """Shares of its training rows that a source is trained on: `[0.01, 0.25]`."""
    shuffled: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple)] = ()
    """Shares of its training rows whose labels are shuffled among them: `[0.2, 0.5]`."""
    draws: Count | None = None
    """How many of the deals. None: all, one per quality; in them each source has each quality once."""
    seed: Seed = 0
    """Another seed deals otherwise."""


class Select(Block):
    """The sources that look best before any transfer layer is trained."""

    by: Measure
    """`logme` or `h_score` of the source's features on the target's training rows, or the likeness to the target of mean `text` embeddings
    or of the adapters' `weights`."""
    top: Count
    """How many are stacked."""


class SourceSets(Block):
    """Several lists of sources, made from the sweep's. Each gives jobs of its own. Exactly one of the keys is given."""

    subsets: Subsets | None = None
    """Random subsets, by the keys below; instead of `leave_out`."""
    leave_out: Count | None = None
    """Every list that lacks so many sources; with 1, each source is left out in turn."""
    unequal: Unequal | None = None
    """All sources, of [unequal quality](#sources-of-unequal-quality)."""
    select: Select | None = None
    """The sources that [look best beforehand](#sources-that-look-best)."""


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict | Block) else "a list"


RowSources = Annotated[Annotated[Names, Tag("a list")] | Annotated[SourceSets, Tag("a mapping")], Discriminator(_kind)]
"""The names of the tags appear in the paths of errors, so they must be no keys of a file."""

ValuesPerName = Annotated[dict[Name, Any], BeforeValidator(_as_block)]


class RateRange(Block):
    """A range of learning rates that the sweep's `search` draws from."""

    low: Rate
    """The smallest value."""
    high: Rate
    """The largest value."""
    log: bool = False
    """Whether equal factors are equally likely, not equal distances."""


_Rates = Annotated[tuple[Rate, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Rates = Annotated[Annotated[_Rates, Tag("a list")] | Annotated[RateRange, Tag("a mapping")], Discriminator(_kind)]


class MethodRow(Optimisation):
    """One row of the table: a method, and its differences from the published settings."""

    learning_rate: Rates | None = None
    """One, a list, or a [range](#ranges); the one with the best validation score is reported. None: the published one."""
    seeds: SeedsPerTask | None = None
    """As at the top level. None: the sweep's."""
    sources: RowSources | None = None
    """Tasks and names of `sources.adapters` to stack; `target` stands for the target's own: `[target, mnli]`. Or
    [many such lists](#many-lists-of-sources). None: the sweep's."""
    settings: ValuesPerName = Field(default={})
    """The method's own; a list makes one job per value: `{omega_dropout: [0.0, 0.3]}`. A number may be a [range](#ranges). Not given: the
    published ones."""
    grid: ValuesPerName = Field(default={})
    """Lists of values, by the name of a setting or of a key of `training`: [every combination](#many-values-at-once) makes jobs."""
    zip: ValuesPerName = Field(default={})
    """The same, but the values at the same place in all lists [go together](#many-values-at-once)."""


class Search(Block):
    """The `search` block: how the ranges of the methods' rows are searched, for each method and target by itself."""

    by: Literal["random", "optuna"]
    """`random`: all points are drawn before anything runs. `optuna`: after a random first round, each round is proposed from the validation
    scores of all rounds before it."""
    trials: Annotated[int, Field(ge=1, le=1000)]
    """How many points are tried for each method and target, and for each combination of what else the row lists."""
    seed: Seed = 0
    """Another seed draws others."""
    round: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many trials `optuna` proposes at once; they run side by side, and in packs."""


class Resources(Block):
    """What Ray sets aside for one trial. Never part of a job's identity."""

    cpu: Annotated[float, Field(gt=0, le=4096)] = 1.0
    """CPUs, and threads of the process, rounded down to at least 1."""
    gpu: Annotated[float, Field(ge=0, le=1024)] | None = None
    """GPUs: a fraction of one, or a whole number; `0` keeps the jobs on CPUs. None: 1 where the cluster has GPUs, else 0."""
    memory: Annotated[ByteSize, Field(ge=1, le=2**60)] | None = None
    """Main memory: bytes, or text such as `8 GiB`. None: Ray counts none."""
    custom: Annotated[dict[Name, Annotated[float, Field(gt=0, le=1e9)]], BeforeValidator(_as_block)] = {}
    """Resources that the cluster's start gave names to: `{fast_disk: 1}`."""
    accelerator_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Ray's name of the accelerator that the node must have, for example `A100`. None: any."""


ResourcesBlock = Annotated[Resources, BeforeValidator(_as_block)]


class StageResources(Block):
    """The `resources` block."""

    attention: Literal["eager", "sdpa"] = "eager"
    """The backbone's attention, in all jobs. `sdpa` takes less memory and time on long inputs where rows are padded; not every architecture
    has it."""
    gradient_checkpointing: bool = False
    """In all jobs: `true` computes the backbone's activations again in the backward pass instead of keeping them. Less memory, longer
    steps, the same results."""
    source: ResourcesBlock = Resources()
    """For a trial of source jobs."""
    transfer: ResourcesBlock = Resources()
    """For a trial of jobs on frozen sources."""
    joint: ResourcesBlock = Resources()
    """For a trial of a job that learns all tasks at once."""
    single: ResourcesBlock = Resources()
    """For a trial of single-task jobs."""
    similarity: ResourcesBlock = Resources()
    """For the comparison of tasks, in `adaptersoup` and `select`."""
    transferability: ResourcesBlock = Resources()
    """For the rating of sources in `select`."""
    methods: Annotated[dict[Name, ResourcesBlock], BeforeValidator(_as_block)] = {}
    """What differs from the stage's block, by method."""

    def of(self, stage: Stage, method: str | None = None) -> Resources:
        """Return what a trial of a stage needs, or of one method in the stage. Values in the method's block win."""
        resources: Resources = getattr(self, stage)
        own = self.methods.get(method) if method is not None else None
        return resources if own is None else resources.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class Packing(Block):
    """The `packing` block: how many jobs train together in one process. Never part of a job's identity."""

    size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """The most jobs that train together in one process. `auto`: as many as fit the device and were measured to pay."""
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that a pack may fill."""

    profile: Name | None = None
    """The device's measured speed, as for `scalearn plan --profile`: [your own](planning.md#profiles) by its path. None: a shipped one of
    the same kind of device, CPU or GPU."""

    @property
    def limit(self) -> int | None:
        """The most jobs in a pack. None: decided by measurement."""
        return None if self.size == "auto" else self.size


class Budget(Block):
    """The `budget` block: what one run may take. Never part of a job's identity."""

    hours: Hours | None = None
    """Hours from the start of the run. None: as many as it takes."""
    device_hours: Hours | None = None
    """Hours of all packs, each times its GPUs (a quarter of a GPU: a quarter). A pack without a GPU counts as one device."""


class Notify(Block):
    """The `notify` block: who is told of failures and ends. Never part of a job's identity."""

    webhook: Name | None = None
    """The web address to post to. Whoever knows it can post there, so it had better not stand in a file that is shared. None: that of
    the environment variable `SCALEARN_WEBHOOK`, if it is set."""
    form: Literal["json", "slack"] = "json"
    """The form of the messages. `slack`: what Slack's incoming webhooks take, and those that imitate them."""


class Tracking(Block):
    """The `tracking` block: where runs are logged. Never part of a job's identity."""

    experiment: Name | None = None
    """The MLflow experiment. None: the sweep's name."""
    uri: Name | None = None
    """The tracking store. None: `MLFLOW_TRACKING_URI`, or an SQLite file in the store (in the working directory, where the store is a
    URL)."""


class SweepSchema(Block):
    """The whole file."""

    extends: None = None
    """[Another file as the basis](#a-file-on-the-basis-of-another), beside this one or shipped."""
    name: Name
    """Names the sweep in the store and in MLflow; part of a path, so ASCII letters, digits, `_`, `-`, `.`."""
    benchmark: Name
    """The set of tasks: `domains`, `glue`, `super_glue`, ..., or a name for your own."""
    backbone: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """A registered name, a hub id `owner/model` or `owner/model@revision`, or a local directory; or [several](#several-backbones)."""
    description: Annotated[str, Field(max_length=2000)] = ""
    """Free text."""
    store: Name = "runs"
    """Where artifacts go: a path relative to the working directory, or the [URL of an object store](cluster.md#a-store-behind-a-url)."""
    tasks: Annotated[dict[Name, dict[Name, Any]], BeforeValidator(_as_block)] = {}
    """[Tasks of your own](#tasks), by name within the benchmark or by full key."""
    data: Annotated[Data, BeforeValidator(_as_block)] = Data()
    """[Which rows jobs read](#data)."""
    sources: Annotated[Sources, BeforeValidator(_as_block)] = Sources()
    """[The adapters that every transfer job stacks](#sources)."""
    targets: Names | None = None
    """The tasks that get a column in the table, in that order. None: the whole benchmark."""
    seeds: SeedsPerTask = {DEFAULT: (0,)}
    """A list, or a list per task: `{default: [0, 1], sst2: [0]}`."""
    methods: Annotated[
        dict[Name, Annotated[tuple[MethodRow, ...], BeforeValidator(_as_rows), Field(min_length=1)]],
        Field(min_length=1),
    ]
    """[The rows of the table](#methods) in order, by method."""
    search: Search | None = None
    """[How ranges are searched](#ranges). None: no row has one."""
    objectives: Annotated[tuple[Literal["score", "parameters"], ...], BeforeValidator(_listed), Field(min_length=1)] = ("score",)
    """[What is weighed](#ranges): the score, or `[score, parameters]`."""
    training: Annotated[Training, BeforeValidator(_as_block)] = Training()
    """[Optimisation](#training)."""
    resources: Annotated[StageResources, BeforeValidator(_as_block)] = StageResources()
    """[What Ray sets aside per trial](#resources)."""
    packing: Annotated[Packing, BeforeValidator(_as_block)] = Packing()
    """[How many jobs train together](#packing)."""
    budget: Annotated[Budget, BeforeValidator(_as_block)] = Budget()
    """[What one run may take](#budget)."""
    notify: Annotated[Notify, BeforeValidator(_as_block)] = Notify()
    """[Who is told of failures and ends](#notify)."""
    tracking: Annotated[Tracking, BeforeValidator(_as_block)] = Tracking()
    """[Where MLflow logs](#tracking)."""
