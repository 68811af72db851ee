"""What can be known of sources before a transfer layer is trained: a job per target, whose result other jobs choose their sources by."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalearn.backbone.accelerator import open_accelerator
from scalearn.backbone.encoder import Encoder, load_encoder, load_tokenizer
from scalearn.backbone.registry import get_backbone
from scalearn.config import JobConfig, Measure
from scalearn.data import TokenisedTask, collate, tokenised
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import adapter_directory, require_unchanged
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.branch import Branch
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.build import build_branch
from scalearn.training.estimates import Array, Labels, class_numbers, h_score, logme, target_columns, weight_likeness
from scalearn.training.pack import Outcome, PackMember, Report
from scalearn.training.results import RESULT, untrained_result, write_json
from scalearn.training.runtime import Runtime
from scalearn.training.similarity import mean_cosines, seconds_of

TABLE = "transferability.json"
_ROWS_PER_PASS = 64


def run_transferability(member: PackMember, runtime: Runtime, report: Report) -> Outcome:
    """Run a transferability job: write `transferability.json` and `result.json`. It reads training rows alone.

    Raises:
        UserError: The backbone, a source or the data cannot be read.
    """
    started = time.monotonic()
    config, places = member.config, {name: member.parents[name] for name in member.config.sources}
    accelerator = open_accelerator("fp32", runtime.device)
    backbone = get_backbone(config.backbone)
    encoder = load_encoder(backbone, device=accelerator.device, attention=runtime.attention)
    tokenizer = load_tokenizer(backbone, encoder.config.vocab_size)
    (data,) = config.data
    task = tokenised(data, tokenizer, config.backbone_origin, root=runtime.data_root, cache=runtime.cache)
    labels = _labels(task)
    seconds = dict.fromkeys(("features", "logme", "h_score", "weights"), 0.0)
    for adapter in config.external:
        require_unchanged(adapter, adapter_directory(places[adapter.name]), allow_pickle=runtime.allow_pickle)
    loaded = clock = time.monotonic()
    measured: dict[str, dict[str, float | None]] = {}
    for name, place in places.items():
        sources = load_source_adapters(encoder, {name: place}, allow_pickle=runtime.allow_pickle, method=config.source_method)
        branch = build_branch(replace(config, method="best_source", sources=(name,), settings={}), encoder, sources)
        features = _features(encoder, branch, task, int(tokenizer.pad_token_id or 0))
        clock = _count(seconds, "features", clock)
        evidence = logme(features, target_columns(task.task, labels))
        clock = _count(seconds, "logme", clock)
        scores = [h_score(features, classes) for classes in class_numbers(task.task, labels)]
        clock = _count(seconds, "h_score", clock)
        measured[name] = {"logme": evidence, "h_score": float(np.mean(scores))}
    everything = load_source_adapters(encoder, places, allow_pickle=runtime.allow_pickle, method=config.source_method)
    likeness, own = weight_likeness(everything), data.task.rpartition("/")[2]
    _count(seconds, "weights", clock)
    texts = mean_cosines(member.parents["similarity"], data.task)
    for index, name in enumerate(places):
        alike = float(likeness[index, config.sources.index(own)]) if own in places else None
        measured[name] |= {"text": texts.get(name), "weights": alike}
    seconds["text"] = seconds_of(member.parents["similarity"])
    table = {"schema": 1, "target": data.task, "rows": len(task.splits["train"]), "measures": measured, "seconds": seconds}
    write_json(member.directory / TABLE, table)
    result = untrained_result(
        device=accelerator.device.type,
        sources=everything.parameters,
        rows={data.task: len(task.splits["train"])},
        started=started,
        loaded=loaded,
        ended=time.monotonic(),
        transferability={"measures": measured, "seconds": seconds},
    )
    write_json(member.directory / RESULT, result)
    return Outcome(member)


def selected(config: JobConfig, directory: Path | None) -> JobConfig:
    """Return a job with the sources that a transferability job rates highest, in the order of stacking.

    Args:
        config: A job that selects.
        directory: Artifact of the transferability job. None: there is none.

    Raises:
        UserError: There is no such job or table, or it does not rate a source.
    """
    assert config.select is not None
    if directory is None:
        raise UserError(f"The job selects {config.select.top} of its sources by '{config.select.by}': let a sweep train it.")
    ratings = read_measure(directory, config.select.by, config.sources)
    best = sorted(config.sources, key=lambda name: ratings[name], reverse=True)[: config.select.top]  # ties go by the order of stacking
    external = tuple(adapter for adapter in config.external if adapter.name in best)
    return replace(config, sources=tuple(name for name in config.sources if name in best), external=external)


def read_measure(directory: Path, measure: Measure, sources: Sequence[str]) -> dict[str, float]:
    """Read what a transferability job found of each source.

    Raises:
        UserError: There is no such table, or it lacks a source.
    """
    path = directory / TABLE
    try:
        measured: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))["measures"]
        return {name: float(measured[name][measure]) for name in sources}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say '{measure}' of every source ({error!r}): run its transferability job again.") from error


def _labels(task: TokenisedTask) -> Labels:
    """Return the labels of the training rows. Of a question with choices, each choice is a row: the right one is 1."""
    labels: Labels = np.asarray(task.splits["train"]["label"])
    if task.task.kind == "multiple_choice":
        labels = np.eye(len(task.task.choices), dtype=np.int64)[labels].reshape(-1)
    return labels


@torch.inference_mode()
def _features(encoder: Encoder, branch: Branch, task: TokenisedTask, pad_token_id: int) -> Array:
    """Return what a head would read of each training row, with a source in the encoder: `[rows, hidden]`."""
    encoder.eval()
    branch.eval()
    rows, parts = task.splits["train"], list[Tensor]()
    for start in range(0, len(rows), _ROWS_PER_PASS):
        batch = collate(rows.__getitems__(list(range(start, min(start + _ROWS_PER_PASS, len(rows))))), pad_token_id)
        inputs = {name: tensor.to(encoder.device) for name, tensor in batch.items() if name != "labels"}
        count, length = inputs["input_ids"].shape
        parts.append(encoder(inputs, [branch], [RowBlock(count, length, 0)]).double().cpu())
    return np.asarray(torch.cat(parts).numpy())


def _count(seconds: dict[str, float], what: str, since: float) -> float:
    """Add the time since a moment. Return the present one."""
    now = time.monotonic()
    seconds[what] += now - since
    return now
