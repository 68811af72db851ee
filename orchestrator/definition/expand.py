"""From a sweep to the graph of its jobs: protocol defaults, then the file's values, then one job per combination."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.definition.combinations import plain_rows
from orchestrator.definition.comparison import with_compared
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.names import TaskNames, per_task
from orchestrator.definition.ranges import Point, Range, ranges_of
from orchestrator.definition.schema import SourceSets
from orchestrator.definition.settings import setting_points
from orchestrator.definition.stacking import external_adapters, source_names, stacks, tasks_of
from orchestrator.definition.trials import NOTHING_KNOWN, Group, Known, Trial, group_key, points_of, rounds
from orchestrator.definition.unequal import BEST, Quality, deals
from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig, OptimisationConfig, SelectConfig, Setting
from scalearn.methods.registry import Method, get_method
from scalearn.methods.settings import check_setting
from scalearn.tasks import Task, definition_of
from scalearn.tasks.origin import data_origin

if TYPE_CHECKING:
    from orchestrator.definition.schema import Data, MethodRow, SweepSchema

FEW_SHOT: Mapping[str, Any] = MappingProxyType({"epochs": 1000, "max_steps": 1000, "patience": 20, "selection": "metric"})
"""Optimisation of few-shot jobs (docs/protocol.md, Training). Steps bound them; epochs must not, since an epoch may be one step."""

DEFAULT_SEEDS = (0,)


SENTENCE_LENGTHS = {"minilm": 256}
"""Tokens that a sentence encoder was published to read, by name."""
SENTENCE_LENGTH = 384
"""Tokens that all-mpnet-base-v2 reads, used for all other encoders too."""


RATED_ROWS = 1000
"""The most training rows of a target on which sources are rated, and of each task whose texts are compared for it."""


class Subset(NamedTuple):
    """How much of the target's training data a job reads, or which of a source's."""

    few_shot: int | None = None
    train_share: float | None = None
    quality: Quality = BEST


WHOLE = Subset()


class Expanded(NamedTuple):
    """A sweep's jobs, and the searches that more jobs may come of."""

    graph: Graph
    groups: tuple[Group, ...]


def expand(sweep: "SweepSchema", origin: Callable[[Task, Path | None], str] = data_origin) -> Graph:
    """Return the graph of a sweep's jobs: source adapters first, then every method's jobs in the order of the file.

    Args:
        sweep: A checked sweep.
        origin: Returns the identity of a task's rows, given the data root.

    Raises:
        UserError: The data of a task is missing.
    """
    return Expansion(sweep, origin).expand().graph


class Expansion:
    """How a sweep expands. It keeps what many jobs share, so that 100,000 jobs stay small, and another expansion is quick."""

    def __init__(self, sweep: "SweepSchema", origin: Callable[[Task, Path | None], str] = data_origin) -> None:
        """Prepare. The arguments are those of `expand`."""
        self.sweep = sweep
        self.origin = origin
        self.names = TaskNames.of(sweep.benchmark, sweep.tasks)
        self.targets = self.names.keys(sweep.targets)
        self.backbones = tuple(map(get_backbone, sweep.backbone))
        self.backbone = self.backbones[0]
        """The backbone whose jobs are being made."""
        self.subsets = _subsets(sweep.data)
        self.external = external_adapters(sweep.sources)
        self.training = {self.names.key(name): block for name, block in sweep.training.tasks.items()}
        self._sources: dict[tuple[str, str, Subset], Job] = {}
        self._optimisations: dict[OptimisationConfig, OptimisationConfig] = {}
        self._datasets: dict[tuple[str, Subset], DataConfig] = {}
        self._origins: dict[str, str] = {}
        self._known: Known = NOTHING_KNOWN
        self._ahead = False
        self._groups: list[Group] = []

    def expand(self, known: Known = NOTHING_KNOWN, *, ahead: bool = False) -> Expanded:
        """Return the sweep's jobs and searches.

        Args:
            known: The trials that were proposed so far.
            ahead: Whether other trials stand in for those that are still to be proposed.

        Raises:
            UserError: The data of a task is missing.
        """
        self._known, self._ahead, self._groups = known, ahead, []
        return Expanded(Graph(with_compared(self._jobs())), tuple(self._groups))

    def _jobs(self) -> Iterator[Job]:
        for backbone, (key, rows) in product(self.backbones, self.sweep.methods.items()):
            self.backbone, method = backbone, get_method(key)
            for row in rows:
                for plain in plain_rows(method, row):
                    yield from self._row(method, plain)

    def _row(self, method: Method, row: "MethodRow") -> Iterator[Job]:
        groups = (self.targets,) if method.stage == "joint" else tuple((task,) for task in self.targets)
        given = {**self.sweep.sources.settings, **row.settings} if method.key == self.sweep.sources.method else row.settings
        space = ranges_of(method, row)
        for tasks, subset in product(groups, self.subsets):
            rates = _rates(row)
            compared = len(rates) > 1 and method.stage != "joint"
            optimisations = [self._optimisation(method, tasks, subset, row.given(), rate, compared=compared) for rate in rates]
            for chosen in self._stacks(method, row, tasks[0]) if method.needs_sources else ((),):
                for trained in self._trained(row, chosen, tasks[0], subset):
                    if space:
                        yield from self._searched(method, row, tasks, subset, chosen, trained, given, space)
                        continue
                    for optimisation, settings in product(optimisations, setting_points(method, given, _count(row, chosen))):
                        parents = (*trained, *self._others(method, row, tasks[0], subset, settings, chosen, trained))
                        for seed in self._seeds(row, tasks):
                            yield self._job(method, tasks, subset, optimisation, settings, seed, chosen, parents, _select(row))

    def _stacks(self, method: Method, row: "MethodRow", target: str) -> tuple[tuple[str, ...], ...]:
        """Return all that a row's jobs on one target stack. If the table chooses among sources, each has jobs of its own."""
        lists = stacks(self.sweep.sources, row.sources, target, self.names)
        return tuple(dict.fromkeys((source,) for listed in lists for source in listed)) if "sources" in method.tuned else lists

    def _trained(self, row: "MethodRow", chosen: tuple[str, ...], target: str, subset: Subset) -> Iterator[list[Job]]:
        """Iterate over the source jobs of a list of sources: once, or once for every deal of unequal qualities."""
        trained = [task for task in chosen if task not in self.external]
        unequal = row.sources.unequal if isinstance(row.sources, SourceSets) else None
        for quality in deals(unequal, trained) if unequal else ({},):
            yield [self._source(task, (subset if task == target else WHOLE)._replace(quality=quality.get(task, BEST))) for task in trained]

    def _searched(
        self,
        method: Method,
        row: "MethodRow",
        tasks: tuple[str, ...],
        subset: Subset,
        chosen: tuple[str, ...],
        trained: list[Job],
        given: Mapping[str, Any],
        space: Mapping[str, Range],
    ) -> Iterator[Job]:
        """Iterate over the jobs of the trials of one method on one target. Each combination of the other values is a search of its own."""
        assert self.sweep.search is not None
        seeds, rated = self._seeds(row, tasks), "learning_rate" in space
        fixed = {**given, **{name: span.low for name, span in space.items() if name != "learning_rate"}}

        def jobs_at(point: Point, rate: float | None, settings: Mapping[str, Setting], *, compared: bool) -> Iterator[Job]:
            settings = {**settings, **{name: check_setting(method, name, point[name]) for name in point if name in method.rules}}
            optimisation = self._optimisation(method, tasks, subset, row.given(), point.get("learning_rate", rate), compared=compared)
            parents = (*trained, *self._others(method, row, tasks[0], subset, settings, chosen, trained))
            for seed in seeds:
                yield self._job(method, tasks, subset, optimisation, settings, seed, chosen, parents, _select(row))

        for rate, settings in product(_rates(row), setting_points(method, fixed, _count(row, chosen))):
            make = partial(jobs_at, rate=rate, settings=settings, compared=rated and method.stage != "joint")
            likeness = [job.fingerprint for job in make({name: span.low for name, span in space.items()})]
            key = group_key(self.sweep.search, space, self.sweep.objectives, likeness)
            points = points_of(self.sweep.search, space, self._known.get(key, ()), ahead=self._ahead)
            trials: list[Trial] = []
            for part in rounds(self.sweep.search, points):
                made = iter(list(with_compared(job for point in part for job in make(point))))
                trials += [Trial(point, tuple(islice(made, len(seeds)))) for point in part]
            self._groups.append(Group(key, self.sweep.search, space, tuple(trials)))
            yield from (job for trial in trials for job in trial.jobs)

    def _job(
        self,
        method: Method,
        tasks: tuple[str, ...],
        subset: Subset,
        optimisation: OptimisationConfig,
        settings: Mapping[str, Setting],
        seed: int,
        chosen: tuple[str, ...] = (),
        parents: tuple[Job, ...] = (),
        select: SelectConfig | None = None,
    ) -> Job:
        # A job on one task alone learns the same in any sweep, so it stands under its task's benchmark, where sweeps share it.
        benchmark = self.sweep.benchmark if method.stage in ("transfer", "joint") else self.names.task(tasks[0]).benchmark
        config = JobConfig(
            benchmark=benchmark,
            stage=method.stage,
            method=method.key,
            data=tuple(self._data(task, subset) for task in tasks),
            backbone=self.backbone.reference,
            backbone_origin=self.backbone.origin,
            optimisation=optimisation,
            seed=seed,
            sources=source_names(chosen),
            settings=settings,
            external=tuple(self.external[name] for name in chosen if name in self.external),
            source_method=self.sweep.sources.method if chosen else "adapter",
            select=select,
        )
        return Job(config, parents)

    def _source(self, task: str, subset: Subset) -> Job:
        """Return the job whose adapter transfer jobs stack for a task."""
        key = (self.backbone.reference, task, subset)
        if key not in self._sources:
            adapter = get_method(self.sweep.sources.method)
            (settings,) = setting_points(adapter, self.sweep.sources.settings, 0)
            optimisation = self._optimisation(adapter, (task,), subset, {}, None)
            self._sources[key] = self._job(adapter, (task,), subset, optimisation, settings, self.sweep.sources.seed)
        return self._sources[key]

    def _others(
        self,
        method: Method,
        row: "MethodRow",
        target: str,
        subset: Subset,
        settings: Mapping[str, Setting],
        chosen: tuple[str, ...],
        trained: list[Job],
    ) -> Iterator[Job]:
        """Iterate over the jobs beside its sources whose results a job reads."""
        if method.needs_similarity:
            yield self._similarity(settings, chosen)
        if _select(row) is not None:
            yield self._transferability(target, subset, chosen, trained)

    def _transferability(self, target: str, subset: Subset, chosen: tuple[str, ...], trained: list[Job]) -> Job:
        """Return the job that rates sources for a target, on its training rows. It serves all methods, measures and seeds."""
        likeness = self._similarity({"sentence_encoder": self.backbone.reference, "sentence_rows": RATED_ROWS}, chosen, cut=True)
        data = self._data(target, subset)
        config = JobConfig(
            benchmark=self.sweep.benchmark,
            stage="transferability",
            method="transferability",
            data=(replace(data, train_rows=min(RATED_ROWS, data.train_rows or RATED_ROWS)),),
            backbone=self.backbone.reference,
            backbone_origin=self.backbone.origin,
            optimisation=OptimisationConfig(learning_rate=0.0, epochs=1),
            seed=0,
            sources=source_names(chosen),
            external=tuple(self.external[name] for name in chosen if name in self.external),
            source_method=self.sweep.sources.method,
        )
        return Job(config, (*trained, likeness))

    def _similarity(self, settings: Mapping[str, Setting], chosen: tuple[str, ...], *, cut: bool = False) -> Job:
        """Return the job that measures how similar all tasks are on their full training data. It serves all targets and seeds.

        With `cut`, texts are as long as other jobs read them, not as long as sentence encoders were published to read.
        """
        encoder = get_backbone(str(settings["sentence_encoder"]))
        wanted = {*tasks_of(chosen, self.external, self.names), *self.targets}
        tasks = (*(task for task in self.names.tasks if task in wanted), *sorted(wanted.difference(self.names.tasks)))
        length = SENTENCE_LENGTHS.get(encoder.name, SENTENCE_LENGTH)
        length = min(length, encoder.shape.positions) if encoder.shape else length
        config = JobConfig(
            benchmark=self.sweep.benchmark,
            stage="similarity",
            method="sentence_similarity",
            data=tuple(
                replace(data, evaluation_rows=None, max_length=data.max_length if cut else length)
                for data in (self._data(task, WHOLE) for task in tasks)
            ),
            backbone=encoder.reference,
            backbone_origin=encoder.origin,
            optimisation=OptimisationConfig(learning_rate=0.0, epochs=1),
            seed=0,
            settings={"rows": settings["sentence_rows"]},
        )
        return Job(config)

    def _optimisation(
        self, method: Method, tasks: tuple[str, ...], subset: Subset, row: Mapping[str, Any], rate: float | None, *, compared: bool = False
    ) -> OptimisationConfig:
        """Merge the published values, the few-shot rule and the file's values. The most specific value wins.

        Only jobs that are `compared` with jobs of other learning rates are subject to early stopping.
        """
        training = self.sweep.training
        values = {**method.optimisation, **(FEW_SHOT if subset.few_shot is not None else {}), **training.of(method.stage)}
        if len(tasks) == 1 and tasks[0] in self.training:
            values |= self.training[tasks[0]].of(method.stage)
        values |= row
        if rate is not None:
            values["learning_rate"] = rate
        if not compared:
            values.pop("early_stopping", None)
        made = OptimisationConfig(**values)
        return self._optimisations.setdefault(made, made)

    def _data(self, task: str, subset: Subset) -> DataConfig:
        key = (task, subset)
        if key not in self._datasets:
            data = self.sweep.data
            template = per_task(data.template, task, "default")
            self._datasets[key] = DataConfig(
                task=task,
                origin=self._origin(task),
                train_rows=per_task(data.train_rows, task, None),
                evaluation_rows=per_task(data.evaluation_rows, task, None),
                train_share=subset.train_share,
                few_shot=subset.few_shot,
                **subset.quality._asdict(),
                template=template,
                max_length=per_task(data.max_length, task, self.names.task(task).max_length),
                own=definition_of(self.names.task(task)),
            )
        return self._datasets[key]

    def _origin(self, task: str) -> str:
        if task not in self._origins:
            root = self.sweep.data.root
            self._origins[task] = self.origin(self.names.task(task), Path(root) if root is not None else None)
        return self._origins[task]

    def _seeds(self, row: "MethodRow", tasks: tuple[str, ...]) -> tuple[int, ...]:
        seeds = row.seeds if row.seeds is not None else self.sweep.seeds
        return per_task(seeds, tasks[0], DEFAULT_SEEDS) if len(tasks) == 1 else seeds.get("default", DEFAULT_SEEDS)


def _rates(row: "MethodRow") -> tuple[float | None, ...]:
    """Return the learning rates that a row lists. None stands for the published one, or for those of a range."""
    return row.learning_rate if isinstance(row.learning_rate, tuple) else (None,)


def _select(row: "MethodRow") -> SelectConfig | None:
    """Return how a row's jobs choose among their sources. None: they stack them all."""
    select = row.sources.select if isinstance(row.sources, SourceSets) else None
    return None if select is None else SelectConfig(select.by, select.top)


def _count(row: "MethodRow", chosen: tuple[str, ...]) -> int:
    """Return how many of its sources a job stacks."""
    select = _select(row)
    return len(chosen) if select is None else select.top


def _subsets(data: "Data") -> tuple[Subset, ...]:
    """Return the sizes of the target's training data that a sweep runs over."""
    if data.few_shot is not None:
        return tuple(Subset(few_shot=count) for count in data.few_shot)
    if data.train_share is not None:
        return tuple(Subset(train_share=round(share * 20) / 20) for share in data.train_share)
    return (WHOLE,)
