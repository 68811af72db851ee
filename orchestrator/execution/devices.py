"""What the devices of a run can hold. GPUs are measured by dry steps; the store keeps the measurements, and what did not fit."""

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import DONE, Graph, Job
from orchestrator.definition.resources import ACCELERATOR, Shape
from orchestrator.scheduling.cost import CostModel, Memory, packable
from orchestrator.scheduling.memory_load import DOUBT_SECONDS, Limit
from scalearn.backbone.registry import get_backbone
from scalearn.config import JobConfig, Setting
from scalearn.methods.registry import get_method
from scalearn.training.runtime import Runtime

FILE = ".cache/devices.json"

Known = Mapping[str, Mapping[str, Memory]]
"""Measurements by device and kind of job (`Sample.name`)."""

Key = tuple[str, str]
"""Stage and method."""

_PATIENCE = 600.0
"""Seconds for which a GPU may be busy, or be started by an autoscaler, before its measurement is given up: the sweep has to begin."""

_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Ray's resources, and the options by which a task asks for them."""

_USUAL = "roberta-base"
"""The backbone whose shape is used for all backbones where only the settings of jobs are compared."""

_PARTS = 3
"""The keys of the file have three parts: device, backbone and precision."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """The job that stands for all jobs of its stage and method: longest inputs, then most sources, most to learn, widest sources."""

    config: JobConfig
    length: int
    """Tokens of its longest inputs."""
    source_settings: Mapping[str, Setting]
    """Settings of the jobs that its sources come from."""

    def name(self, runtime: Runtime) -> str:
        """Return the name of what a measurement depends on, besides device, backbone and precision."""
        how = f"{runtime.attention}{', recomputed' if runtime.gradient_checkpointing else ''}"
        sizes = f"{len(self.config.sources)} sources of {self.source_size}, {self.learned} learned, {self.length} tokens"
        return f"{self.config.stage}/{self.config.method} {sizes}, {how}"

    @property
    def learned(self) -> int:
        """Parameters that the job learns on a backbone of the usual shape, which is enough to compare jobs of one backbone."""
        return _count(self.config.method, len(self.config.sources), self.config.settings)

    @property
    def source_size(self) -> int:
        """Parameters of one of its frozen sources, counted in the same way."""
        return _count(self.config.source_method, 0, self.source_settings) if self.config.sources else 0


def samples(jobs: Iterable[Job]) -> dict[Key, Sample]:
    """Return what to measure, by stage and method, for the jobs that can be packed."""
    found: dict[Key, Sample] = {}
    for job in jobs:
        if packable(job.config.method):
            key, sample = (job.config.stage, job.config.method), _sample(job)
            best = found.get(key)
            if best is None or _size(sample) > _size(best):
                found[key] = sample
    return found


def probe(wanted: Mapping[Key, Sample], known: Known, runtime: Runtime) -> dict[Key, Memory]:
    """Measure a worker's device by dry steps. This takes seconds, mostly to load the backbone, and no time if all is known.

    Args:
        wanted: Jobs like those that will run, by stage and method, all of one backbone and precision.
        known: Earlier measurements.
        runtime: How the jobs will run. Its device is `cpu` or `cuda`.
    """
    import torch  # imported here: this runs in a worker, but the driver imports the module

    from scalearn.backbone.encoder import load_encoder
    from scalearn.training.memory import footprint

    on_gpu = runtime.device != "cpu"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    total = float(torch.cuda.get_device_properties(0).total_memory) if on_gpu else float("inf")
    before = known.get(name, {})
    found = {key: before[sample.name(runtime)] for key, sample in wanted.items() if sample.name(runtime) in before}
    missing = {key: sample for key, sample in wanted.items() if key not in found}
    if not missing:
        return found
    backbone = get_backbone(next(iter(missing.values())).config.backbone)
    encoder = load_encoder(backbone, device=runtime.device, attention=runtime.attention)
    encoder.recompute_in_backward(runtime.gradient_checkpointing)
    for key, sample in missing.items():
        taken = footprint(encoder, sample.config, sample.length, sample.source_settings)
        per_token, per_job, per_stack = taken.per_row / sample.length, float(taken.per_job), float(taken.per_stack)
        found[key] = Memory(name, total, float(taken.fixed), per_token, per_job, per_stack)
    return found


@dataclass(frozen=True)
class Devices:
    """What a run knows of its devices."""

    cost: CostModel
    """The cost model, whose packs fit what was measured."""
    names: Mapping[Hashable, str]
    """The device, or part of a device, that a trial gets, by placement."""


def measure_memory(
    graph: Graph,
    store: Store,
    cost: CostModel,
    runtime: Runtime,
    shape_of: Callable[[Job], Shape],
    placement_of: Callable[[Job], Hashable],
    check: Callable[[], None] = lambda: None,
) -> Devices:
    """Measure every kind of GPU trial that the jobs of a graph ask for, each in a worker that is placed as the jobs are.

    Args:
        graph: The jobs. Those that are done are left out.
        store: Keeps the measurements for later runs.
        cost: Applies where nothing is measured: on CPUs, and where the sweep gives the size of packs.
        runtime: How the jobs will run.
        shape_of: The resources of a job's trial.
        placement_of: The same resources as a key.
        check: Called while a measurement lasts; an error that it raises ends the wait.
    """
    groups: dict[Hashable, list[Job]] = {}
    for node, state in graph.states.items():
        if state not in DONE:
            groups.setdefault(placement_of(graph.job(node)), []).append(graph.job(node))
    names: dict[Hashable, str] = {placement: _part(shape_of(jobs[0]), None) for placement, jobs in groups.items()}
    asked = {}
    runtime = replace(runtime, device="cuda", should_stop=None)
    for placement, jobs in groups.items():
        wanted = samples(jobs)
        if wanted and cost.measures_packs and shape_of(jobs[0]).get("GPU"):
            config = next(iter(wanted.values())).config
            asked[placement] = config, wanted, _ask(shape_of(jobs[0]), wanted, recall(store, config), runtime)
    measured: dict[Key, Memory] = {}
    for placement, (config, wanted, answer) in asked.items():
        try:
            found = _wait_for(answer, check)
        except RayError as error:  # if the error lasts, the jobs themselves will report it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            logger.warning("The memory of a GPU could not be measured (%s): packs are planned by the profile.", reason)
            ray.cancel(answer)
            continue
        shape = shape_of(groups[placement][0])
        remember(store, config, {wanted[key].name(runtime): memory for key, memory in found.items()})
        names[placement] = _part(shape, next(iter(found.values())).device)
        measured |= {key: replace(memory, total=memory.total * _share(shape)) for key, memory in found.items()}
    return Devices(cost.with_memory(measured) if measured else cost, names)


def _ask(shape: Shape, wanted: Mapping[Key, Sample], known: Known, runtime: Runtime) -> Any:
    options: dict[str, Any] = {_OPTIONS[name]: amount for name, amount in shape.items() if name in _OPTIONS}
    options["resources"] = {name: amount for name, amount in shape.items() if name not in _OPTIONS}
    return ray.remote(**options)(probe).remote(wanted, known, runtime)


def _wait_for(answer: Any, check: Callable[[], None]) -> dict[Key, Memory]:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            found: dict[Key, Memory] = ray.get(answer, timeout=1.0)
        except GetTimeoutError:
            check()
            if time.monotonic() > end:
                raise
        else:
            return found


def _share(shape: Shape) -> float:
    return min(1.0, shape["GPU"])


def _part(shape: Shape, device: str | None) -> str:
    """Name the device that a trial gets: the device itself if it is known, else the type that the trial asks for."""
    if not shape.get("GPU"):
        return "CPU"
    asked = next((name.removeprefix(ACCELERATOR) for name in shape if name.startswith(ACCELERATOR)), "GPU")
    return f"{_share(shape):g} {device or asked}"


def recall(store: Store, config: JobConfig) -> dict[str, dict[str, Memory]]:
    """Return the measurements of earlier runs for a job's backbone and precision, by device and kind of job."""
    found: dict[str, dict[str, Memory]] = {}
    for key, entry in _read(store).items():
        device, _, rest = key.partition("|")
        values = entry.get("memory")
        if rest == _backbone(config) and isinstance(values, dict):
            try:
                found[device] = {name: Memory(**memory) for name, memory in values.items()}
            except TypeError:
                continue
    return found


def remember(store: Store, config: JobConfig, measured: Mapping[str, Memory]) -> None:
    """Keep measurements for later runs with the same store.

    Args:
        store: The store.
        config: A job of the measured backbone and precision.
        measured: Measurements of one device, by kind of job.
    """
    values = _read(store)
    for name, memory in measured.items():
        entry = values.setdefault(f"{memory.device}|{_backbone(config)}", {})
        entry["memory"] = {**(entry.get("memory") or {}), name: asdict(memory)}
    store.write_json(store.root / FILE, values)


def recall_fitting(store: Store, now: float) -> dict[Hashable, Limit]:
    """Return the limits by device, backbone and precision, where a pack of the last day did not fit.

    Args:
        store: The store.
        now: The present time, in seconds, on the clock by which the limits are to be read.
    """
    found: dict[Hashable, Limit] = {}
    for key, entry in _read(store).items():
        tokens, written = entry.get("fitting_tokens"), entry.get("fitting_time")
        if isinstance(tokens, int | float) and isinstance(written, int | float) and len(parts := key.split("|")) == _PARTS:
            left = min(DOUBT_SECONDS, written + DOUBT_SECONDS - time.time())
            if left > 0:
                found[tuple(parts)] = Limit(float(tokens), now + left)
    return found


def remember_fitting(store: Store, device_key: Hashable, tokens: float) -> None:
    """Keep what a policy has learned from a pack that did not fit its device.

    Args:
        store: The store.
        device_key: Device, backbone and precision.
        tokens: Tokens of a step that fits.
    """
    assert isinstance(device_key, tuple)
    values = _read(store)
    values.setdefault("|".join(device_key), {}).update(fitting_tokens=tokens, fitting_time=time.time())
    store.write_json(store.root / FILE, values)


def _read(store: Store) -> dict[str, Any]:
    values = store.load_json(store.root / FILE) or {}
    return {key: entry for key, entry in values.items() if isinstance(entry, dict)}


def _backbone(config: JobConfig) -> str:
    return f"{config.backbone_origin}|{config.optimisation.precision}"


def _sample(job: Job) -> Sample:
    config = replace(job.config, sources=job.config.sources[: job.config.stacked], select=None)  # which they will be does not matter
    settings = next((parent.config.settings for parent in job.parents if parent.config.stage == "source"), None)
    return Sample(config, max(data.max_length for data in config.data), settings or get_method(config.source_method).settings)


def _size(sample: Sample) -> tuple[int, int, int, int]:
    return sample.length, len(sample.config.sources), sample.learned, sample.source_size


def _count(method: str, sources: int, settings: Mapping[str, Setting]) -> int:
    """Return how many parameters a method learns by its formula; 0 where it has none."""
    known, shape = get_method(method), get_backbone(_USUAL).shape
    counted = known.count(shape, sources, {**known.settings, **settings}) if known.count and shape else None
    return counted or 0
