"""Checks that the schema cannot make: names must exist, lists must not repeat, and values must fit each other."""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from orchestrator.definition.check_rows import Adapters, check_rows, seeds, stackable, target_modules, task_keys
from orchestrator.definition.check_search import check_search
from orchestrator.definition.identity import printable, safe_segment
from orchestrator.definition.names import TaskNames, defined_task
from orchestrator.definition.problems import Misfit, Problems
from orchestrator.definition.resources import RESERVED
from orchestrator.definition.schema import DEFAULT, Resources, Sources, SweepSchema
from orchestrator.definition.settings import count_points, setting_points
from orchestrator.definition.stacking import named_adapter
from scalearn.backbone.linear_modules import linear_modules, matching, resolve_targets
from scalearn.backbone.registry import Backbone, config_entries, get_backbone, require_readable
from scalearn.config import Stage
from scalearn.formats.adapterhub_layout import SEQ_BN, read_adapter_config, require_architecture, require_fitting_weights
from scalearn.formats.peft_layout import factor, lora_parts
from scalearn.methods.registry import Method, get_method
from scalearn.tasks import PackageSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from orchestrator.definition.yaml_source import Key
    from scalearn.backbone.linear_modules import Sizes


def check(sweep: SweepSchema) -> list[Misfit]:
    """Return every name that does not exist and every value that does not fit the others, in no order.

    What cannot be judged before another error is mended is left out.
    """
    problems = Problems()
    problems.at(("name",), safe_segment, sweep.name, "sweep name")
    _points(sweep, problems)
    _resources(sweep, problems)
    _root(sweep.data.root, problems)
    if sweep.notify.webhook is not None and not is_web_address(sweep.notify.webhook):
        problems.add(("notify", "webhook"), "{key} must be a web address, which begins with http:// or https:// and names a host.")
    for key in sweep.methods:
        problems.at(("methods", key), get_method, key)
    check_search(sweep, problems)
    problems.unique(("backbone",), sweep.backbone)
    backbones = {name: _backbone(name, sweep, problems) for name in sweep.backbone}
    defined = [problems.at(("tasks", name), defined_task, sweep.benchmark, name, text) for name, text in sweep.tasks.items()]
    names = None if None in defined else problems.at(("benchmark",), TaskNames.of, sweep.benchmark, sweep.tasks)
    if names is not None:
        for backbone in backbones.values():
            _named(sweep, names, backbone, problems)
    return list(dict.fromkeys(problems.found))  # several backbones may have the same ones


def _named(sweep: SweepSchema, names: TaskNames, backbone: Backbone | None, problems: Problems) -> None:
    """Check what refers to tasks."""
    targets = problems.tasks(("targets",), sweep.targets, names)
    sources = problems.tasks(("sources", "tasks"), sweep.sources.tasks, names)
    stackable(("sources", "tasks"), sources, problems)
    _per_task(sweep, names, problems)
    seeds(("seeds",), sweep.seeds, names, problems)
    _packages(dict.fromkeys((*targets, *sources)), names, problems)
    known = linear_modules(backbone.shape) if backbone and backbone.shape else None
    trained = _source_settings(sweep.sources, known, problems)
    loras = sweep.sources.method == "lora"
    external = _external_loras(sweep.sources, known, problems) if loras else _external(sweep.sources, backbone, problems)
    of_sweep = _lora(trained, known) if loras else trained
    adapters = Adapters(sweep.sources, external, of_sweep, known, backbone.shape.architecture if backbone and backbone.shape else None)
    check_rows(sweep, names, targets, sources, adapters, problems)


def _backbone(name: str, sweep: SweepSchema, problems: Problems) -> Backbone | None:
    """Return a backbone, once it is known that it can be read, and reads as many tokens as it shall."""
    before = len(problems.found)
    backbone = problems.at(("backbone",), get_backbone, name)
    if backbone is None:
        return None
    entries = problems.at(("backbone",), config_entries, backbone)
    if entries is not None:
        problems.at(("backbone",), require_readable, name, entries)
    readable = len(problems.found) == before
    longest = backbone.shape.positions if backbone.shape else None
    for task, length in sweep.data.max_length.items():
        if longest is not None and length > longest:
            problems.add(("data", "max_length", task), f"{{key}} is {length}, but {name} reads at most {longest} tokens.")
    return backbone if readable else None


def _source_settings(sources: Sources, known: "Sizes | None", problems: Problems) -> "Mapping[str, Any]":
    """Return the configuration of the adapters that the sweep trains."""
    method = get_method(sources.method)
    listed = next(
        (name for name, value in sources.settings.items() if isinstance(value, list) and not _one_list(method, name, value)), None
    )
    if listed is not None:
        problem = f"Setting '{listed}' of the source adapters must be one value: every target stacks the same ones."
        problems.add(("sources", "settings", listed), problem)
        return SEQ_BN
    points = problems.at(("sources", "settings"), setting_points, method, sources.settings, 0)
    target_modules(("sources", "settings", "target_modules"), points or (), known, problems)
    return {**SEQ_BN, **(points[0] if points else {})}


def _one_list(method: Method, name: str, value: "list[Any]") -> bool:
    """Tell whether a list is one value of a setting, such as `target_modules`, and not several values."""
    return isinstance(method.settings.get(name), tuple) and count_points(method, {name: value}) == 1


def _external(sources: Sources, backbone: Backbone | None, problems: Problems) -> "dict[str, Mapping[str, Any] | None]":
    """Return the configurations of the adapters that a sweep names by their place. Each must fit the backbone."""
    configs: dict[str, Mapping[str, Any] | None] = {}
    local_places: dict[str, Path] = {}
    shape = backbone.shape if backbone else None
    for name, place in sources.adapters.items():
        key: Key = ("sources", "adapters", name)
        configs[name] = None
        adapter = problems.at(key, named_adapter, name, place, sources.allow_pickle)
        if adapter is not None and adapter.origin.startswith("files:"):
            configs[name] = problems.at(key, read_adapter_config, name, Path(adapter.place), shape.hidden_size if shape else None)
            if configs[name] is not None:
                local_places[name] = Path(adapter.place)
                layers = _sites(backbone)
                problems.at(key, require_fitting_weights, name, Path(adapter.place), layers=layers, allow_pickle=sources.allow_pickle)
    problems.at(("sources", "adapters"), require_architecture, local_places, shape.architecture if shape else None)
    return configs


def _external_loras(sources: Sources, known: "Sizes | None", problems: Problems) -> "dict[str, Mapping[str, Any] | None]":
    """Do as `_external` for LoRAs, and return rank and factor by module, since only methods that merge them need them to be alike."""
    configs: dict[str, Mapping[str, Any] | None] = dict.fromkeys(sources.adapters)
    for name, place in sources.adapters.items():
        key: Key = ("sources", "adapters", name)
        adapter = problems.at(key, named_adapter, name, place, sources.allow_pickle)
        if adapter is not None and adapter.origin.startswith("files:"):
            parts = problems.at(key, lora_parts, name, Path(adapter.place), known)
            configs[name] = {module: (part.rank, part.scale) for module, part in parts.items()} if parts else None
    return configs


def _lora(settings: "Mapping[str, Any]", known: "Sizes | None") -> "Mapping[str, Any] | None":
    """Return rank and factor by module of the LoRAs that the sweep trains. None: the backbone's modules are not known, or not these."""
    targets = settings.get("target_modules", ())
    if known is None or "rank" not in settings or not all(matching(known, [target]) for target in targets):
        return None
    rank = settings["rank"]
    return dict.fromkeys(resolve_targets(known, targets), (rank, factor(rank, settings["alpha"], settings["rslora"])))


def _sites(backbone: Backbone | None) -> int | None:
    """Return how many sites the backbone has. The layers of ALBERT share theirs."""
    return None if backbone is None or backbone.shape is None or backbone.shape.architecture == "albert" else backbone.shape.layers


def _per_task(sweep: SweepSchema, names: TaskNames, problems: Problems) -> None:
    """Check the mappings from tasks to values."""
    data = sweep.data
    for field in ("train_rows", "evaluation_rows", "max_length", "template"):
        task_keys(("data", field), getattr(data, field), names, problems)
    task_keys(("training", "tasks"), sweep.training.tasks, names, problems, default=False)
    for name, template in data.template.items():
        key: Key = ("data", "template", name)
        if not problems.below(key):
            for task in names.tasks if name == DEFAULT else (names.key(name),):
                problems.at(key, names.task(task).template, template)


def _points(sweep: SweepSchema, problems: Problems) -> None:
    """Check the parts of the data over which a sweep runs."""
    data = sweep.data
    if data.few_shot is not None and data.train_share is not None:
        problems.add(("data", "train_share"), "{key} and 'data.few_shot' exclude each other: keep one.")
    if data.few_shot is not None:
        problems.unique(("data", "few_shot"), data.few_shot)
    if data.train_share is not None:
        problems.unique(("data", "train_share"), data.train_share)
        for index, share in enumerate(data.train_share):
            if abs(share * 20 - round(share * 20)) > 1e-9:
                problems.add(("data", "train_share", index), f"{{key}} must be a multiple of 0.05, not {share:g}.")


def _resources(sweep: SweepSchema, problems: Problems) -> None:
    """Check for values that Ray would refuse or misread."""
    blocks: dict[Key, Resources] = {("resources", stage): sweep.resources.of(stage) for stage in get_args(Stage)}
    for key, block in sweep.resources.methods.items():
        problems.at(("resources", "methods", key), get_method, key)
        blocks["resources", "methods", key] = block
    for path, block in blocks.items():
        if block.gpu is not None and block.gpu > 1 and block.gpu != int(block.gpu):
            problems.add((*path, "gpu"), f"{{key}} must be a fraction of one GPU or a whole number of them, not {block.gpu:g}.")
        for name in block.custom:
            if name in RESERVED or ":" in name:
                problems.add((*path, "custom", name), "{key} is a name that Ray keeps for itself: a custom resource needs another.")


def _root(root: str | None, problems: Problems) -> None:
    """Refuse a data root that is not a directory."""
    try:
        present = root is None or Path(root).expanduser().is_dir()
    except (OSError, RuntimeError):  # no file system takes this name, or no user has this home
        present = False
    if root is not None and not present:
        problems.add(
            ("data", "root"), f"{{key}} is {printable(root)}, which is no directory: it must hold <benchmark>/<task>/<split>.parquet."
        )


def is_web_address(text: str) -> bool:
    """Tell whether a text is the address of a web server, to which can be posted."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _packages(tasks: Iterable[str], names: TaskNames, problems: Problems) -> None:
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
                problems.add(("benchmark",), problem)
