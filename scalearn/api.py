"""The package as a library: describe a job, attach a method to a backbone, train a job.

    model = fit(job("domains/apple", "scalearn_pp", backbone="minilm", sources=("apple", "coachella")), "out", sources=...)

A sweep does the same for many jobs at once, through the same training loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.heads import Head, HeadConfig
from scalearn.methods.build import build_branch
from scalearn.methods.registry import get_method, require_sources_kind
from scalearn.methods.settings import resolve_settings
from scalearn.model.model import LoadedBackbone, TransferModel, load_backbone, load_model
from scalearn.model.transfer_files import HeadSpec, TransferSpec, job_config
from scalearn.tasks import get_task
from scalearn.tasks.origin import data_origin
from scalearn.training.checkpoint import remove_checkpoint
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from scalearn.unknown_name import unknown

_DATA = {field.name for field in fields(DataConfig)} - {"task", "origin", "own"}
_OPTIMISATION = {field.name for field in fields(OptimisationConfig)}


def task_data(task: str, *, root: Path | None = None, **limits: Any) -> DataConfig:
    """Describe the rows of a registered task.

    Args:
        task: Key of the task, for example `glue/rte`.
        root: Directory of local data. None: the hub, or an installed package.
        limits: Fields of `DataConfig`, such as `train_rows`, `evaluation_rows`, `max_length`.

    Raises:
        UserError: The task is unknown, or its data cannot be found.
    """
    known = get_task(task)
    return DataConfig(task, data_origin(known, root), **{"max_length": known.max_length, **limits})


def job(
    task: str,
    method: str = "adapter",
    *,
    backbone: str,
    sources: Sequence[str] = (),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    source_method: str = "adapter",
    root: Path | None = None,
    **options: Any,
) -> JobConfig:
    """Describe one training job. Values that are not given are the published ones of its method.

    Args:
        task: Key of a registered task.
        method: Key of a method. The default trains a source adapter.
        backbone: Registered name, local directory, or hub id.
        sources: Names of the source adapters, for methods that have sources.
        seed: Seed of initialisation, data order and dropout.
        settings: The method's own settings.
        source_method: What the sources are: `adapter`, or `lora` for LoRAs in PEFT's layout.
        root: Directory of local data.
        options: Fields of `DataConfig` and `OptimisationConfig`, such as `train_rows`, `learning_rate`, `epochs`.

    Raises:
        UserError: A name is unknown, or a setting is out of range.
    """
    for name in options:
        if name not in _DATA | _OPTIMISATION:
            raise UserError(unknown("option", name, _DATA | _OPTIMISATION))
    entry = get_method(method)
    if bool(sources) != entry.needs_sources:
        raise UserError(f"Method '{method}' {'needs sources: name them' if entry.needs_sources else 'takes no sources: leave them out'}.")
    require_sources_kind(entry, source_method)
    data = task_data(task, root=root, **{name: value for name, value in options.items() if name in _DATA})
    encoder = get_backbone(backbone)
    if encoder.shape is not None and data.max_length > encoder.shape.positions:
        raise UserError(f"max_length is {data.max_length}, but backbone '{backbone}' takes {encoder.shape.positions} tokens: give fewer.")
    optimisation: dict[str, Any] = dict(entry.optimisation)
    optimisation.update({name: value for name, value in options.items() if name in _OPTIMISATION})
    return JobConfig(
        benchmark=get_task(task).benchmark,
        stage=entry.stage,
        method=method,
        data=(data,),
        backbone=backbone,
        backbone_origin=encoder.origin,
        optimisation=OptimisationConfig(**optimisation),
        seed=seed,
        sources=tuple(sources),
        settings=resolve_settings(entry, settings or {}, len(sources)),
        source_method=source_method if sources else "adapter",
    )


def fit(
    config: JobConfig,
    directory: str | Path,
    *,
    sources: Mapping[str, str | Path] | None = None,
    similarity: str | Path | None = None,
    backbone: LoadedBackbone | None = None,
    root: Path | None = None,
    runtime: Runtime | None = None,
) -> TransferModel:
    """Train one job and return its model at the best evaluation. An interrupted job continues where it was.

    Args:
        config: A job, as `job` returns it.
        directory: Created. It receives history, checkpoints, result and weights.
        sources: Directory of each source: in AdapterHub's or PEFT's layout, or of the job that trained it.
        similarity: For AdapterSoup: the directory of a sweep's similarity job, or another with such a `similarity.json`.
        backbone: The backbone for the returned model. Default: it is loaded anew.
        root: Directory of local data, if `job` was given one. Default: `runtime.data_root`.
        runtime: Device, cache and other circumstances.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: Something is missing, the directory holds another job's checkpoint, or the job failed. The sentence says why.
    """
    place, parents = Path(directory), {name: Path(path) for name, path in (sources or {}).items()}
    if set(parents) != set(config.sources):
        raise UserError(
            f"The job's sources are {', '.join(config.sources) or 'none'}, but directories of {', '.join(parents) or 'none'} were given."
        )
    if get_method(config.method).needs_similarity:
        if similarity is None:
            raise UserError(
                f"Method '{config.method}' weighs sources by how similar their tasks are: give similarity, the directory of a sweep's "
                "similarity job, or train it by a sweep file."
            )
        parents["similarity"] = Path(similarity)
    place.mkdir(parents=True, exist_ok=True)
    runtime = runtime or Runtime()
    runtime = runtime if root is None else replace(runtime, data_root=root)
    (outcome,) = train([PackMember(config, place, parents)], runtime, lambda member, record: None)
    if outcome.error is not None:
        raise UserError(outcome.error)
    remove_checkpoint(place)
    loaded, stacked = backbone or load_backbone(config.backbone), None
    if config.sources:
        places = {name: parents[name] for name in config.sources}
        stacked = load_source_adapters(loaded.encoder, places, allow_pickle=runtime.allow_pickle, method=config.source_method)
    return load_model(place, loaded, stacked)


def attach(
    backbone: LoadedBackbone,
    method: str,
    head: HeadConfig,
    *,
    sources: SourceAdapters | None = None,
    label_names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_length: int = 128,
) -> TransferModel:
    """Put an untrained method and a head onto a backbone, for a training loop of your own.

    Args:
        backbone: The backbone, which stays frozen.
        method: Key of a method.
        head: What the head predicts.
        sources: Loaded source adapters, for methods that have sources.
        label_names: Names of the head's outputs.
        settings: The method's own settings.
        seed: Seed of the initialisation, which is the same as that of a job of this seed.
        max_length: Tokens per text.

    Returns:
        The model, in training mode.

    Raises:
        UserError: A method or setting is unknown, or sources are missing or not taken by the method.
    """
    entry, names = get_method(method), sources.names if sources is not None else ()
    if bool(names) != entry.needs_sources:
        raise UserError(f"Method '{method}' {'needs sources: load some' if entry.needs_sources else 'takes no sources: leave them out'}.")
    resolved = resolve_settings(entry, settings or {}, len(names))
    encoder, origin = backbone.encoder, backbone.backbone
    head = replace(head, dropout=encoder.head_dropout) if head.dropout is None else head
    label_names = None if label_names is None else tuple(label_names)
    predicted = HeadSpec("", head.kind, head.labels, label_names, max_length, head.layers, head.dropout)
    spec = TransferSpec(method, resolved, names, origin.name, origin.origin, encoder.hidden_size, (predicted,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own_head = Head(head, encoder.hidden_size, getattr(encoder.config, "initializer_range", 0.02))
    branch = build_branch(job_config(spec, seed), encoder, sources)
    return TransferModel(backbone, spec, branch, own_head.to(encoder.device), sources)
