"""What the devices of a run can hold: measured by a dry step where they are GPUs, and remembered in the store with what did not fit."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.definition.graph import Graph, Job
from orchestrator.planning.cost import CostModel
from orchestrator.planning.sizes import size_of
from orchestrator.storage.store import Store
from scalearn.config import JobConfig

FILE = ".cache/devices.json"


@dataclass(frozen=True)
class Memory:
    """Of one kind of device with one backbone in one precision."""

    device: str
    total: float
    """Bytes of the device."""
    weights: float
    """Bytes of the backbone."""
    per_token: float
    """Bytes that a padded token of a training batch holds."""


def probe(config: JobConfig, length: int, device: str) -> Memory:
    """Measure a device by dry steps: seconds, most of them for loading the backbone.

    Args:
        config: An adapter job like those that will run.
        length: Tokens per row.
        device: `cpu` or `cuda`.
    """
    import torch  # here, since this runs in a worker and the module is imported by the driver

    from scalearn.backbones import get_backbone
    from scalearn.encoder import load_encoder
    from scalearn.memory import bytes_per_row

    encoder = load_encoder(get_backbone(config.backbone), device=device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    per_token = bytes_per_row(encoder, config, length) / length
    if device == "cpu":
        return Memory("cpu", float("inf"), weights, per_token)
    return Memory(torch.cuda.get_device_name(), float(torch.cuda.get_device_properties(0).total_memory), weights, per_token)


def probe_job(graph: Graph) -> tuple[JobConfig, int] | None:
    """Return an adapter job of a sweep to measure with, and its longest inputs. None: nothing of the sweep would be packed by it."""
    jobs = [job for job in graph if job.config.method == "adapter"]
    if not jobs:
        return None
    longest = max(jobs, key=_length)
    return longest.config, _length(longest)


def with_memory(cost: CostModel, memory: Memory, share: float = 1.0) -> CostModel:
    """Return a cost model whose packs fit a measured device.

    Args:
        cost: With the speeds of the nearest profile.
        memory: As measured.
        share: Part of the device that one trial has.
    """
    rates = tuple(replace(entry, bytes_per_token=memory.per_token, fixed_bytes=memory.weights) for entry in cost.profile.rates)
    return cost.on(replace(cost.profile, memory_bytes=memory.total * share, rates=rates))


def recall(store: Store, config: JobConfig) -> Memory | None:
    """Return what an earlier run measured for a backbone and precision."""
    entry = _read(store).get(_key(config), {}).get("memory")
    try:
        return Memory(**entry) if entry else None
    except TypeError:
        return None


def remember(store: Store, config: JobConfig, memory: Memory) -> None:
    """Keep a measurement for later runs into the same store."""
    values = _read(store)
    values[_key(config)] = {"memory": asdict(memory)}
    store.write_json(store.root / FILE, values)


def recall_fitting(store: Store) -> dict[Hashable, float]:
    """Return tokens of a step that fit, by backbone and precision, where earlier packs did not."""
    found: dict[Hashable, float] = {}
    for key, entry in _read(store).items():
        if isinstance(tokens := entry.get("fitting_tokens"), int | float):
            found[tuple(key.split("|"))] = float(tokens)
    return found


def remember_fitting(store: Store, fitting: Mapping[Hashable, float]) -> None:
    """Keep what a policy has learned from packs that did not fit."""
    values = _read(store)
    for key, tokens in fitting.items():
        assert isinstance(key, tuple)
        values.setdefault("|".join(key), {})["fitting_tokens"] = tokens
    store.write_json(store.root / FILE, values)


def _read(store: Store) -> dict[str, Any]:
    values = store.load_json(store.root / FILE) or {}
    return {key: entry for key, entry in values.items() if isinstance(entry, dict)}


def _key(config: JobConfig) -> str:
    return f"{config.backbone_origin}|{config.optimisation.precision}"


def _length(job: Job) -> int:
    return int(max(size_of(data).padded for data in job.config.data))
