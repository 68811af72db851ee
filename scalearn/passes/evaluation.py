"""Score trained jobs on a split, several jobs in one pass."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch

from scalearn.backbone.encoder import Encoder
from scalearn.passes.metrics import evaluate
from scalearn.passes.packed_pass import PackedJob, collate_rows, packed_logits

Scores = dict[str, float]


class JudgedJob(PackedJob, Protocol):
    """A job whose parameters are to be scored."""

    warnings: set[str]
    """Collects the warnings of metrics."""

    def rows_by_length(self, task: int, split: str) -> Sequence[int]:
        """Return the row numbers of a split of the task at an index, shortest input first."""

    def train_mode(self, training: bool) -> None:
        """Switch the job's modules to training or evaluation."""


ROWS_PER_PASS = 64


def evaluate_runs(
    encoder: Encoder,
    runs: Sequence[JudgedJob],
    split: str,
    precision: AbstractContextManager[None],
    pad_token_id: int,
    rows_per_pass: int = ROWS_PER_PASS,
    before_pass: Callable[[], None] = lambda: None,
) -> list[dict[str, Scores]]:
    """Evaluate several jobs on the named split of each of their tasks.

    Rows are taken in order of length, so that padding is small. Every pass holds rows of all jobs that still have some.

    Args:
        encoder: The shared backbone, left in evaluation mode.
        runs: Jobs with the parameters to be scored.
        split: `validation`, `test`, or a further split. Tasks without it are left out.
        precision: Context in which the passes compute, such as `torch.autocast`. It is entered once.
        pad_token_id: The tokenizer's padding token.
        rows_per_pass: Rows of one job in one pass.
        before_pass: Called before every pass. It may raise, which leaves the jobs as they were.

    Returns:
        Values per job, by task and metric, `loss` included. A task with a logit that is not finite has only a loss, which is NaN.
    """
    encoder.eval()
    work = {id(run): _chunks(run, split, rows_per_pass) for run in runs}
    collected: dict[tuple[int, int], list[tuple[list[int], np.ndarray, float]]] = {}
    for run in runs:
        run.train_mode(False)
    with torch.inference_mode(), precision:
        for turn in range(max((len(chunks) for chunks in work.values()), default=0)):
            before_pass()
            present = [(run, *work[id(run)][turn]) for run in runs if turn < len(work[id(run)])]
            batches = [collate_rows(run, task, split, rows, pad_token_id) for run, task, rows in present]
            logits = packed_logits(encoder, batches, pad_token_id)
            for (run, task, rows), batch, scores in zip(present, batches, logits, strict=True):
                loss = float(run.heads[task].loss(scores, batch.inputs["labels"].to(scores.device)))
                collected.setdefault((id(run), task), []).append((rows, scores.cpu().numpy(), loss))
    return [_scores(run, split, collected) for run in runs]


def primary_metrics(run: PackedJob) -> dict[str, str]:
    """Return, for each task, the metric that tables report first."""
    return {task.task.key: task.task.metrics[0] for task in run.tasks}


def _chunks(run: JudgedJob, split: str, rows_per_pass: int) -> list[tuple[int, list[int]]]:
    chunks: list[tuple[int, list[int]]] = []
    for index, task in enumerate(run.tasks):
        if split not in task.splits:
            continue
        order = run.rows_by_length(index, split)
        chunks += [(index, list(order[start : start + rows_per_pass])) for start in range(0, len(order), rows_per_pass)]
    return chunks


def _scores(
    run: JudgedJob, split: str, collected: Mapping[tuple[int, int], Sequence[tuple[list[int], np.ndarray, float]]]
) -> dict[str, Scores]:
    scores: dict[str, Scores] = {}
    for index, task in enumerate(run.tasks):
        parts = collected.get((id(run), index))
        if not parts:
            continue
        order = np.concatenate([rows for rows, _, _ in parts])
        logits = np.concatenate([values for _, values, _ in parts])
        in_order = np.empty_like(logits)
        in_order[order] = logits
        if not np.isfinite(in_order).all():  # no metric is defined, but the other jobs of the pack go on
            scores[task.task.key] = {"loss": math.nan}
            continue
        loss = sum(loss * len(rows) for rows, _, loss in parts) / len(order)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores[task.task.key] = {"loss": loss, **evaluate(task.task, in_order, task.splits[split])}
        run.warnings.update(f"{task.task.key} {split}: {warning.message}" for warning in caught)
    return scores
