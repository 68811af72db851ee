"""LoraHub's search (arXiv 2307.13269, section 3): weights of the sources, found by comparing losses on a few training rows.

A loss needs a head, which the paper's generative model has and a classifier has not. So the head first learns on the average of the sources
for a tenth of the job's steps; then the weights are searched with this head; then the head goes on with what was found. The search reads
training rows alone.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from scipy.optimize import minimize

from scalearn.backbone.encoder import Encoder
from scalearn.methods.lorahub import HubAdapter, HubLora
from scalearn.passes.packed_pass import JobBatch, collate_rows, losses, packed_logits
from scalearn.training.job import JobRun
from scalearn.training.stop_signal import StopSignal

_HEAD_FIRST = 10
"""The head learns alone for one of so many parts of the job's steps."""
_BOUND = 1.5
"""The largest absolute weight, as in the published code."""
_FIRST_CHANGE = 0.5
"""How much the optimiser changes each weight at first."""


def search_where_due(
    runs: Sequence[JobRun], encoder: Encoder, autocast: Callable[[], AbstractContextManager[None]], pad_token_id: int, stop: StopSignal
) -> None:
    """Search the weights of all jobs whose heads have learned for long enough. The encoder may be left in evaluation mode.

    Args:
        runs: The jobs of a pack.
        encoder: The shared backbone.
        autocast: Makes the context in which passes compute.
        pad_token_id: The tokenizer's padding token.
        stop: Checked before each pass. A search that was stopped begins anew when the job continues.

    Raises:
        Stop: Someone asked to stop. The weights are as they were before.
    """
    for run in runs:
        branch, progress = run.branch, run.progress
        if isinstance(branch, HubAdapter | HubLora) and run.awaits_search and progress.step >= max(1, run.total_steps // _HEAD_FIRST):
            encoder.eval()
            run.train_mode(False)
            with autocast():
                _search(run, branch, encoder, pad_token_id, stop)
            progress.searched = True
            run.best, progress.since_best = {}, 0  # evaluations so far were of the average


def _search(run: JobRun, branch: HubAdapter | HubLora, encoder: Encoder, pad_token_id: int, stop: StopSignal) -> None:
    """Set the best weights of those that COBYLA tries: Powell's linear approximations, which need no gradient and draw nothing."""
    settings, values = run.config.settings, branch.source_weights.values
    rows, evaluations, factor = (float(str(settings[name])) for name in ("search_rows", "search_evaluations", "search_l1"))
    batches = _batches(run, int(rows), pad_token_id)
    before = values.detach().clone()
    tried: list[tuple[float, torch.Tensor]] = []

    def objective(point: np.ndarray) -> float:
        _set(values, torch.from_numpy(point))
        found = _loss(encoder, batches, pad_token_id, stop) + factor * float(np.abs(point).sum())
        tried.append((found, values.detach().clone()))
        return found

    start = before.double().cpu().numpy()
    options = {"maxiter": max(int(evaluations), len(start) + 2), "rhobeg": _FIRST_CHANGE}
    best = before
    try:
        minimize(objective, start, method="COBYLA", bounds=[(-_BOUND, _BOUND)] * len(start), options=options)
        best = min(tried, key=lambda pair: pair[0])[1]
    finally:
        _set(values, best)


def _batches(run: JobRun, rows: int, pad_token_id: int) -> list[JobBatch]:
    """Draw the rows by the job's seed, in batches no larger than those of training."""
    drawn = torch.randperm(run.sizes[0], generator=torch.Generator().manual_seed(run.config.seed))[:rows].tolist()
    size = run.config.optimisation.batch_size
    return [collate_rows(run, 0, "train", drawn[start : start + size], pad_token_id) for start in range(0, len(drawn), size)]


@torch.no_grad()
def _loss(encoder: Encoder, batches: list[JobBatch], pad_token_id: int, stop: StopSignal) -> float:
    total = 0.0
    for batch in batches:
        stop.check()
        (value,) = losses([batch], packed_logits(encoder, [batch], pad_token_id))
        total += float(value) * batch.weight
    return total / sum(batch.weight for batch in batches)


@torch.no_grad()
def _set(values: torch.Tensor, given: torch.Tensor) -> None:
    values.copy_(given)
