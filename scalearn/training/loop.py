"""The training loop: a pack of jobs on one shared backbone. A pack of one job is the ordinary case."""

import gc
import logging
import math
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from scalearn.backbone.accelerator import gradient_scaler, open_accelerator, precision_name, products_type
from scalearn.backbone.encoder import Encoder, load_encoder, load_tokenizer
from scalearn.backbone.registry import get_backbone
from scalearn.config import JobConfig
from scalearn.data import tokenised
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import adapter_directory, require_unchanged
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.methods.registry import get_method
from scalearn.passes.evaluation import ROWS_PER_PASS, Scores, evaluate_runs, primary_metrics
from scalearn.passes.packed_pass import JobBatch, losses, packed_logits, split_for_memory, training_batch
from scalearn.secrets import clause
from scalearn.training.allocator import keep_freed_memory, return_freed_memory
from scalearn.training.history import append_history, cut_history, history_record
from scalearn.training.job import JobRun
from scalearn.training.memory import free_memory, ran_out
from scalearn.training.pack import Outcome, OutOfMemory, PackMember, Report, Stop
from scalearn.training.results import write_artifact, write_result
from scalearn.training.runtime import Runtime
from scalearn.training.similarity import read_similarity, run_similarity
from scalearn.training.stop_signal import StopSignal
from scalearn.training.transferability import run_transferability, selected
from scalearn.training.weight_search import search_where_due

T = TypeVar("T")

__all__ = ["Outcome", "PackMember", "Report", "Runtime", "Stop", "train"]

logger = logging.getLogger(__name__)

OTHER_STAGES = {"similarity": run_similarity, "transferability": run_transferability}  # which train nothing

_warm: dict[tuple[str, str, str, torch.dtype], tuple[Encoder, PreTrainedTokenizerBase]] = {}
"""The backbone that this process used last, ready for the next pack."""


def train(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Train a pack of jobs together, and leave each job's results in its own directory.

    Jobs that cannot share a pass run one after the other: those that change the backbone itself, and similarity jobs, which train nothing.
    All others must have the same backbone and precision. A job fails alone if its loss is not finite or its sources or data cannot be read.
    A job with a checkpoint continues from it. The checkpoint stays after the job has ended: until the caller has stored the results safely,
    it shows that the job need not be trained again.

    Args:
        pack: The jobs.
        runtime: Where and how they run.
        report: Called after every evaluation. It may raise `Stop`, as `runtime.should_stop` does. Then all jobs write a checkpoint.

    Returns:
        How each job ended, in the order of the pack.

    Raises:
        Stop: The report callback or `runtime.should_stop` asked to stop.
        OutOfMemory: The device does not hold the pack, even in the smallest passes.
        UserError: The backbone cannot be loaded, or the jobs do not fit into one pack.
    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    try:
        return _train_in_turn(pack, runtime, report)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        reason = clause(error)
    # Only after the `except` block, since the error refers to all that the pack held.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    what = "this job" if len(pack) == 1 else f"these {len(pack)} jobs together"
    raise OutOfMemory(f"Memory does not hold {what} ({reason}): use a smaller backbone or shorter inputs, or a device with more memory.")


def _train_in_turn(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Train the jobs that can share passes together, then the others one after the other."""
    outcomes: dict[int, Outcome] = {}
    together = [member for member in pack if _shares_backbone(member.config)]
    for group in (together, *([member] for member in pack if not _shares_backbone(member.config))):
        if group and group[0].config.stage in OTHER_STAGES:
            outcomes[id(group[0])] = _run_other(group[0], runtime, report)
        elif group:
            outcomes |= _train_together(group, runtime, report)
    return [outcomes[id(member)] for member in pack]


def _shares_backbone(config: JobConfig) -> bool:
    return config.stage not in OTHER_STAGES and not get_method(config.method).owns_backbone


def _run_other(member: PackMember, runtime: Runtime, report: Report) -> Outcome:
    try:
        return OTHER_STAGES[member.config.stage](member, runtime, report)
    except UserError as error:
        return Outcome(member, str(error), traceback.format_exc())


def _train_together(group: Sequence[PackMember], runtime: Runtime, report: Report) -> dict[int, Outcome]:
    """Return how each job of a pack ended, by the identity of its member."""
    with torch.random.fork_rng(devices=[]):
        # Jobs draw from their own streams. Other draws, such as the dropout of fused attention, at least start the same in each process.
        torch.manual_seed(group[0].config.seed)
        trainer = _PackTrainer(group, runtime, report)
        try:
            trainer.train()
        finally:
            trainer.encoder.release()
            return_freed_memory()
    return trainer.outcomes


class _PackTrainer:
    """The state that the steps of one pack share."""

    def __init__(self, pack: Sequence[PackMember], runtime: Runtime, report: Report) -> None:
        first = pack[0].config
        if any(
            (member.config.backbone_origin, member.config.optimisation.precision) != (first.backbone_origin, first.optimisation.precision)
            for member in pack
        ):
            raise UserError("The jobs of a pack differ in backbone or precision: pack only jobs that share both.")
        self.pack_size = len(pack)
        self.runtime, self.report = runtime, report
        self.stop = StopSignal(runtime.should_stop)
        self.evaluation_rows = ROWS_PER_PASS
        self.outcomes: dict[int, Outcome] = {}
        started = time.monotonic()
        self.accelerator = open_accelerator(first.optimisation.precision, runtime.device)
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        self.shared_passes = not on_cpu if runtime.shared_passes is None else runtime.shared_passes
        self.encoder, self.tokenizer = _encoder(first.backbone, self.accelerator, runtime, changes=get_method(first.method).owns_backbone)
        self.encoder.pads = self.shared_passes
        self.pad_token_id = int(self.tokenizer.pad_token_id or 0)
        self.active = self._start(pack)
        self.shared_passes &= not (self.encoder.shares_positions and any(run.branch.sites_by_module for run in self.active))
        self.load_seconds = time.monotonic() - started
        # The limit is a number of rows, so a job that comes from a larger pack need not be divided now.
        self.pass_rows = min((run.progress.pass_rows for run in self.active if run.progress.pass_rows), default=0)
        self.micro_batches = 1

    def _start(self, pack: Sequence[PackMember]) -> list[JobRun]:
        runs: list[JobRun] = []
        stacked: dict[object, SourceAdapters] = {}
        for member in pack:
            try:
                runs.append(self._start_member(member, stacked))
            except UserError as error:
                self.outcomes[id(member)] = Outcome(member, str(error), traceback.format_exc())
        return runs

    def _start_member(self, member: PackMember, stacked: dict[object, SourceAdapters]) -> JobRun:
        config = member.config if member.config.select is None else selected(member.config, member.parents.get("transferability"))
        self.encoder.require_length(max(data.max_length for data in config.data))
        root, cache = self.runtime.data_root, self.runtime.cache
        tasks = [tokenised(data, self.tokenizer, config.backbone_origin, root=root, cache=cache) for data in config.data]
        sources = None
        if config.sources:
            places = tuple((name, str(member.parents[name])) for name in config.sources)
            for adapter in config.external:
                require_unchanged(adapter, adapter_directory(member.parents[adapter.name]), allow_pickle=self.runtime.allow_pickle)
            key, allow_pickle = (config.source_method, places), self.runtime.allow_pickle
            if key not in stacked:
                stacked[key] = load_source_adapters(self.encoder, dict(places), allow_pickle=allow_pickle, method=config.source_method)
            sources = stacked[key]
            if "similarity" in member.parents:
                sources = replace(sources, similarity=read_similarity(member.parents["similarity"], config.task))
        run = JobRun(member, self.encoder, tasks, sources, gradient_scaler(self.accelerator), config)
        cut_history(member.directory, run.progress.step)
        return run

    def train(self) -> None:
        try:
            self._settle()
            while self.active:
                self.stop.check()
                self._step()
                self._settle()
        except Stop:
            for run in self.active:
                run.checkpoint()
            raise

    def _settle(self) -> None:
        """Search weights, evaluate, end jobs that are finished, and write checkpoints, each where it is due."""
        search_where_due(self.active, self.encoder, self.accelerator.autocast, self.pad_token_id, self.stop)
        due = [run for run in self.active if run.awaits_evaluation]
        if due:
            self._evaluate(due)
        for run in [run for run in self.active if run.progress.finished]:
            self._finish(run)
        for run in self.active:
            run.checkpoint_after(self.runtime.checkpoint_seconds)

    def _step(self) -> None:
        """Take one optimiser step for every active job. If memory runs out, halve the passes and try again."""
        started = time.monotonic()
        states = [run.generator.get_state() for run in self.active]
        batches = self._next_batches()
        while True:
            passes = self._passes(batches)
            try:
                step_losses = self._accumulate(batches, passes)
                break
            except Stop:
                for run, state in zip(self.active, states, strict=True):
                    run.generator.set_state(state)  # as before the step, which a resumed job makes again
                raise
            except (RuntimeError, MemoryError) as error:
                for run in self.active:
                    run.optimizer.zero_grad(set_to_none=True)
                largest = max(sum(batch.weight for batch, _ in parts) for parts in passes)
                if not ran_out(error) or largest == 1:
                    raise
                self.pass_rows = -(-largest // 2)
                logger.warning("Out of memory: a pass now holds at most %d rows.", self.pass_rows)
            free_memory(self.encoder.device)
        of_one_job = max(Counter(id(batch.run) for parts in passes for batch, _ in parts).values())
        self.micro_batches = max(self.micro_batches, len(passes) if self.shared_passes else of_one_job)
        self._update(step_losses)
        seconds = time.monotonic() - started
        for run in self.active:
            run.progress.train_seconds += seconds / len(self.active)
            run.progress.micro_batches, run.progress.pass_rows = self.micro_batches, self.pass_rows

    def _next_batches(self) -> list[JobBatch]:
        if not self.encoder.training:
            self.encoder.train()
            for run in self.active:
                run.train_mode(True)
        return [training_batch(run, run.next_batch(), self.pad_token_id, run.batch_seed()) for run in self.active]

    def _together(self, jobs: Sequence[T]) -> list[list[T]]:
        """Return the groups of jobs that share passes: one group of all jobs, or one group per job."""
        return [list(jobs)] if self.shared_passes else [[job] for job in jobs]

    def _passes(self, batches: Sequence[JobBatch]) -> list[list[tuple[JobBatch, float]]]:
        """Return the passes of a step. They depend only on the step's own rows, so a resumed pack divides its steps in the same way."""
        found: list[list[tuple[JobBatch, float]]] = []
        for group in self._together(batches):
            examples = sum(batch.weight for batch in group)
            rows = sum(batch.block.rows for batch in group)
            parts = max(-(-examples // (self.pass_rows or examples)), -(-rows // (self.runtime.micro_batch_rows or rows)))
            found += split_for_memory(group, parts)
        return found

    def _accumulate(self, batches: Sequence[JobBatch], passes: Sequence[Sequence[tuple[JobBatch, float]]]) -> dict[int, float]:
        """Compute all gradients, and return each job's loss by the identity of its run."""
        totals: dict[int, float] = {id(batch.run): 0.0 for batch in batches}
        scalers = {id(run): run.scaler for run in self.active}
        for number, parts in enumerate(passes):
            if number:
                self.stop.check()
            members = [batch for batch, _ in parts]
            with self.accelerator.autocast():
                values = losses(members, packed_logits(self.encoder, members, self.pad_token_id))
            weighted = []
            finite = torch.stack([value.detach() for value in values]).tolist()
            for (batch, share), value, plain in zip(parts, values, finite, strict=True):
                totals[id(batch.run)] += plain * share
                penalty = batch.run.branch.penalty()
                weighted.append((value if penalty is None else value + penalty) * share)
            usable = [
                loss if (scaler := scalers[id(batch.run)]) is None else scaler.scale(loss)
                for loss, (batch, _) in zip(weighted, parts, strict=True)
                if math.isfinite(totals[id(batch.run)])
            ]
            if usable:
                torch.stack(usable).sum().backward()
        return totals

    def _update(self, step_losses: dict[int, float]) -> None:
        """Apply every job's own optimiser. A job whose loss is not finite leaves the pack instead."""
        for run in list(self.active):
            loss = step_losses[id(run)]
            rate = run.set_learning_rate()
            if not math.isfinite(loss):
                step = run.progress.step + 1
                self._fail(run, f"The training loss became {loss} at step {step} with learning rate {rate:g}: lower the learning rate.")
                continue
            run.update()
            run.advance(loss)

    def _evaluate(self, due: Sequence[JobRun]) -> None:
        started = time.monotonic()
        scores = self._scores(due, "validation")
        seconds = time.monotonic() - started
        records: list[tuple[JobRun, dict[str, Any]]] = []
        for run, validation in zip(due, scores, strict=True):
            run.progress.evaluate_seconds += seconds / len(due)
            if not all(math.isfinite(values["loss"]) for values in validation.values()):
                self._fail(run, f"The validation loss is not finite after step {run.progress.step}: lower the learning rate.")
                continue
            record = history_record(run, float(run.optimizer.param_groups[0]["lr"]), validation)
            run.judge(validation, primary_metrics(run))
            run.progress.loss_sum, run.progress.loss_steps = 0.0, 0
            append_history(run.member.directory, record)
            if not run.progress.finished:
                run.checkpoint_after()
            records.append((run, record))
        # Last, since a report may stop the pack. Any job that was not judged by then would lose its evaluation.
        for run, record in records:
            if self.report(run.member, record) and not run.progress.finished:
                run.progress.finished, run.progress.stopped_by = True, "asha"

    def _scores(self, runs: Sequence[JobRun], split: str) -> list[dict[str, Scores]]:
        """Evaluate jobs on a split."""
        return [scores for group in self._together(runs) for scores in self._scores_together(group, split)]

    def _scores_together(self, runs: Sequence[JobRun], split: str) -> list[dict[str, Scores]]:
        """Evaluate jobs that share passes. If memory runs out, halve the passes and start the evaluation again."""
        while True:
            try:
                return evaluate_runs(
                    self.encoder,
                    runs,
                    split,
                    self.accelerator.autocast(),
                    self.pad_token_id,
                    self.evaluation_rows,
                    before_pass=self.stop.check,
                )
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or self.evaluation_rows == 1:
                    raise
                self.evaluation_rows //= 2
                logger.warning("Out of memory: jobs are now evaluated on %d rows at a time.", self.evaluation_rows)
            free_memory(self.encoder.device)

    def _finish(self, run: JobRun) -> None:
        """Score the best parameters on the test split, and write the results."""
        run.checkpoint_after()
        run.restore_best()
        started = time.monotonic()
        scores: dict[str, dict[str, Any]] = {task: {"validation": values} for task, values in run.progress.best_validation.items()}
        for split in dict.fromkeys(name for task in run.tasks for name in task.splits if name not in ("train", "validation")):
            (judged,) = self._scores([run], split)
            if not all(math.isfinite(values["loss"]) for values in judged.values()):
                self._fail(run, f"The loss on {split} is not finite after step {run.progress.best_step}: lower the learning rate.")
                return
            for task, values in judged.items():
                scores[task][split] = values
        if run.branch.observes:
            self._scores([run], "validation")
        run.progress.evaluate_seconds += time.monotonic() - started
        write_artifact(run, self.encoder)
        write_result(run, scores, primary_metrics(run), self._circumstances())
        self._leave(run, Outcome(run.member))

    def _circumstances(self) -> dict[str, Any]:
        device = self.encoder.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return {
            "precision": precision_name(self.accelerator),
            "device": name,
            "threads": torch.get_num_threads(),
            "attention": self.runtime.attention,
            "padded": self.encoder.pads,
            "gradient_checkpointing": self.runtime.gradient_checkpointing,
            "pack_size": self.pack_size,
            "evaluation_pass_rows": self.evaluation_rows,
            "load_seconds": self.load_seconds,
        }

    def _fail(self, run: JobRun, error: str) -> None:
        self._leave(run, Outcome(run.member, error))

    def _leave(self, run: JobRun, outcome: Outcome) -> None:
        self.active = [other for other in self.active if other is not run]
        self.outcomes[id(run.member)] = outcome


def _encoder(backbone_name: str, accelerator: Accelerator, runtime: Runtime, *, changes: bool) -> tuple[Encoder, PreTrainedTokenizerBase]:
    """Return the warm backbone, or load another one in its place. A job that changes the backbone needs it in float32."""
    backbone = get_backbone(backbone_name)
    products_in = torch.float32 if changes else products_type(accelerator)
    key = (backbone.origin, str(accelerator.device), runtime.attention, products_in)
    if key not in _warm:
        _warm.clear()
        encoder = load_encoder(backbone, device=accelerator.device, attention=runtime.attention, products_in=products_in)
        _warm[key] = (encoder, load_tokenizer(backbone, encoder.config.vocab_size))
    _warm[key][0].recompute_in_backward(runtime.gradient_checkpointing)
    return _warm[key]
