"""Checks of the methods' rows: their names, the number of their jobs, and whether sources and settings fit each other.

What needs no other key is checked first. A row in which that is wrong, or of a sweep whose targets or sources are, goes no further, since
its other errors might only follow from those.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.definition.check_forms import check_form
from orchestrator.definition.combinations import FORMS, RATE, count_rows, plain_rows
from orchestrator.definition.expand import DEFAULT_SEEDS
from orchestrator.definition.names import TaskNames, per_task, short
from orchestrator.definition.problems import Problems, repeated
from orchestrator.definition.ranges import is_range, ranges_of
from orchestrator.definition.schema import DEFAULT, MethodRow, Sources, SourceSets, SweepSchema, Unequal
from orchestrator.definition.settings import check_values, count_points, setting_points
from orchestrator.definition.source_sets import count_sets
from orchestrator.definition.stacking import TARGET, source_names, source_pool, stacks, tasks_of
from orchestrator.definition.unequal import qualities
from scalearn.backbone.linear_modules import Sizes, require_modules
from scalearn.backbone.registry import get_backbone
from scalearn.formats.adapterhub_layout import require_agreement
from scalearn.formats.peft_layout import require_alike
from scalearn.methods.registry import METHODS, Method, require_backbone, require_sources_kind

if TYPE_CHECKING:
    from orchestrator.definition.yaml_source import Key

MAX_JOBS = 100_000
"""The most jobs of a sweep: expanding, planning and the manifest were built and measured for so many."""


class Adapters(NamedTuple):
    """What is known of the adapters that transfer jobs may stack."""

    block: Sources
    external: Mapping[str, Mapping[str, Any] | None]
    """Configuration of every adapter that exists already, by name, or rank and factor of a LoRA by module. None: only the hub has it."""
    trained: Mapping[str, Any] | None
    """Configuration of the adapters that the sweep trains. None: it is not known."""
    modules: Sizes | None
    """The backbone's linear modules. None: they are not known."""
    architecture: str | None
    """The backbone's architecture. None: only the hub knows it."""


def check_rows(
    sweep: SweepSchema, names: TaskNames, targets: tuple[str, ...], sources: tuple[str, ...], adapters: Adapters, problems: Problems
) -> None:
    """Check all rows of all known methods."""
    rows: dict[Key, tuple[Method, MethodRow]] = {
        ("methods", key, index): (METHODS[key], row)
        for key, several in sweep.methods.items()
        if not problems.below(("methods", key))
        for index, row in enumerate(several)
    }
    for key, (method, row) in rows.items():
        _alone(key, method, row, names, adapters, problems)
    if problems.below(("targets",), ("sources",)):
        return
    sound = {key: entry for key, entry in rows.items() if not problems.below(key)}
    if _few_enough(sweep, sound, names, targets, sources, problems):
        for key, (method, row) in sound.items():
            if not problems.below(key):
                _fitting(key, method, row, names, targets, adapters, problems)


def _alone(key: "Key", method: Method, row: MethodRow, names: TaskNames, adapters: Adapters, problems: Problems) -> None:
    """Check what can be judged without the sweep's sources and targets."""
    if isinstance(row.learning_rate, tuple):
        problems.unique((*key, RATE), row.learning_rate)
    if row.seeds is not None:
        seeds((*key, "seeds"), row.seeds, names, problems)
    if method.needs_sources:
        problems.at(key[:2], require_sources_kind, method, adapters.block.method)
    if adapters.architecture is not None:
        problems.at(key[:2], require_backbone, method, adapters.block.method, adapters.architecture)
    if row.sources is not None:
        _sources((*key, "sources"), method, row.sources, names, adapters, problems)
    for name, raw in row.settings.items():
        if is_range(method, name, raw):
            continue  # `check_search` judges ranges
        problems.at((*key, "settings", name), check_values, method, name, raw)
    for form in FORMS:
        check_form(key, form, method, row, problems)


def _sources(
    key: "Key", method: Method, given: Sequence[str] | SourceSets, names: TaskNames, adapters: Adapters, problems: Problems
) -> None:
    if not method.needs_sources:
        problems.add(key, f"Method '{method.key}' stacks no source adapters: remove 'sources'.")
        return
    named: dict[Key, Sequence[str]] = {}
    if not isinstance(given, SourceSets):
        named[key] = given
    elif sum(form is not None for form in (given.subsets, given.leave_out, given.unequal, given.select)) != 1:
        problems.add(key, "{key} must be a list of names, or hold one of 'subsets', 'leave_out', 'unequal' and 'select'.")
    elif given.unequal is not None:
        _unequal((*key, "unequal"), method, given.unequal, names, adapters, problems)
    elif given.select is not None and "sources" in method.tuned:
        problems.add((*key, "select"), f"Method '{method.key}' takes one source alone by validation: remove {{key}}.")
    elif given.subsets is not None:
        problems.unique((*key, "subsets", "sizes"), given.subsets.sizes)
        named = {(*key, "subsets", name): getattr(given.subsets, name) for name in ("always", "never")}
    for place, listed in named.items():
        problems.tasks(place, [name for name in listed if name != TARGET and name not in adapters.external], names)
        problems.unique(place, listed)


def _unequal(key: "Key", method: Method, given: Unequal, names: TaskNames, adapters: Adapters, problems: Problems) -> None:
    for name in ("rows", "shuffled"):
        problems.unique((*key, name), getattr(given, name))
    if len(qualities(given)) == 1:
        problems.add(key, "{key} makes all sources equal: give 'rows' or 'shuffled' a share, such as rows: [0.05].")
    if "sources" in method.tuned:
        problems.add(key, f"Method '{method.key}' takes one source alone, so {{key}} has nothing to compare: remove it.")
    tasks = problems.tasks(("sources", "tasks"), adapters.block.tasks, names) if given.shuffled else ()
    for task in tasks:
        if names.task(task).kind == "per_candidate":
            what = f"{short(task)} has labels for each candidate of a row, which cannot be shuffled between rows"
            problems.add((*key, "shuffled"), f"{{key}}: {what}; leave it out of 'sources.tasks'.")


def _few_enough(
    sweep: SweepSchema,
    rows: "Mapping[Key, tuple[Method, MethodRow]]",
    names: TaskNames,
    targets: tuple[str, ...],
    sources: tuple[str, ...],
    problems: Problems,
) -> bool:
    """Refuse a sweep of too many jobs. Only count them, since a small file can name more jobs than memory holds."""
    points = len(sweep.data.few_shot or sweep.data.train_share or (None,))
    jobs = points * len({*targets, *sources})
    for key, (method, row) in rows.items():
        given = sweep.seeds if row.seeds is None else row.seeds
        tasks = targets[:1] if method.stage == "joint" else targets
        runs = problems.at((*key, "sources"), _runs, sweep, row, given, tasks, names) or 0
        settings = count_points(method, row.settings) * count_rows(method, row) * (len(sources) if "sources" in method.tuned else 1)
        rates = len(row.learning_rate) if isinstance(row.learning_rate, tuple) else 1
        trials = sweep.search.trials if sweep.search and ranges_of(method, row) else 1
        jobs += points * runs * rates * trials * settings
    jobs *= len(sweep.backbone)
    if jobs > MAX_JOBS:
        what = "with their tasks, seeds, learning rates and settings"
        problems.add(("methods",), f"{{key}} {what} are {jobs:,} jobs: at most {MAX_JOBS:,}.")
    return jobs <= MAX_JOBS


def _runs(sweep: SweepSchema, row: MethodRow, seeds: Mapping[str, tuple[int, ...]], tasks: tuple[str, ...], names: TaskNames) -> int:
    """Return how many pairs of a seed and a list of sources a row has, over all its tasks, at most."""
    runs = 0
    for task in tasks:
        lists = count_sets(row.sources, source_pool(sweep.sources, row.sources, task, names)) if isinstance(row.sources, SourceSets) else 1
        runs += lists * len(per_task(seeds, task, DEFAULT_SEEDS))
    return runs


def _fitting(
    key: "Key", method: Method, row: MethodRow, names: TaskNames, targets: tuple[str, ...], adapters: Adapters, problems: Problems
) -> None:
    """Check that the sources of a row can be stacked, and that its settings are right for them."""
    chosen = (
        {each: None for target in targets for each in stacks(adapters.block, row.sources, target, names)} if method.needs_sources else {}
    )
    for each in chosen:
        _stack((*key, "sources"), method, each, adapters, problems)
        if method.needs_similarity or _selects(row):
            problems.at((*key, "sources"), tasks_of, each, adapters.external, names)
    _own_weights((*key, "sources"), row, chosen, targets, problems)
    ends = {name: span.low for name, span in ranges_of(method, row).items() if name in row.settings}
    for plain in plain_rows(method, row):
        select = row.sources.select if isinstance(row.sources, SourceSets) else None
        for count in {select.top if select else len(each): None for each in chosen} or (0,):
            points = problems.at((*key, "settings"), setting_points, method, {**plain.settings, **ends}, count)
            if points is None:
                return
            target_modules((*key, "settings", "target_modules"), points, adapters.modules, problems)
            for encoder in {str(point["sentence_encoder"]) for point in points} if method.needs_similarity else ():
                problems.at((*key, "settings", "sentence_encoder"), get_backbone, encoder)


def _selects(row: MethodRow) -> bool:
    return isinstance(row.sources, SourceSets) and row.sources.select is not None


def _own_weights(key: "Key", row: MethodRow, chosen: Iterable[tuple[str, ...]], targets: tuple[str, ...], problems: Problems) -> None:
    """Refuse to compare weights with those of an own source that is not there."""
    select = row.sources.select if isinstance(row.sources, SourceSets) else None
    lacking = next((target for target in targets for each in chosen if short(target) not in source_names(each)), None)
    if select is not None and select.by == "weights" and lacking is not None:
        what = f"compares with the weights of the target's own source, which {short(lacking)} lacks"
        problems.add((*key, "select", "by"), f"{{key}}: 'weights' {what}; name it in 'sources.tasks', or choose by another measure.")


def _stack(key: "Key", method: Method, chosen: Sequence[str], adapters: Adapters, problems: Problems) -> None:
    """Refuse sources that cannot be stacked on each other, as far as their files show."""
    if not chosen:
        problems.add(("sources", "tasks"), "{key} is empty, and so is 'sources.adapters': name at least one source.")
        return
    stackable(key, chosen, problems)
    configs = {name: adapters.external.get(name, adapters.trained) for name in chosen}
    known = {name: config for name, config in zip(source_names(chosen), configs.values(), strict=True) if config is not None}
    if known and adapters.block.method == "adapter":
        problems.at(("sources", "adapters"), require_agreement, known)
    if known and adapters.block.method == "lora" and method.merges:
        problems.at(key[:2], require_alike, method.key, known)


def target_modules(key: "Key", points: Iterable[Mapping[str, Any]], known: Sizes | None, problems: Problems) -> None:
    """Refuse settings that name linear modules which the backbone does not have, as far as it is known."""
    for point in points if known is not None else ():
        problems.at(key, require_modules, known or {}, point.get("target_modules", ()))


def stackable(key: "Key", sources: Sequence[str], problems: Problems) -> None:
    """Refuse two sources of one short name, since adapters are stacked and saved under it."""
    clash = next(repeated(map(short, dict.fromkeys(sources))), None)
    if clash is not None:
        both = " and ".join(task for task in dict.fromkeys(sources) if short(task) == clash)
        problems.add(key, f"Two sources are named '{clash}' ({both}): stack each name once.")


def seeds(key: "Key", given: Mapping[str, tuple[int, ...]], names: TaskNames, problems: Problems) -> None:
    """Check seeds per task."""
    task_keys(key, given, names, problems)
    for name, values in given.items():
        problems.unique((*key, name), values)


def task_keys(key: "Key", mapping: Iterable[str], names: TaskNames, problems: Problems, *, default: bool = True) -> None:
    """Check the keys of a mapping from tasks to values. No task may be named twice, by its short name and its full key."""
    given = [name for name in mapping if not (default and name == DEFAULT)]
    found = [problems.at((*key, name), names.key, name) for name in given]
    problems.unique(key, filter(None, found))
