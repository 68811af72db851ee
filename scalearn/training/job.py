"""One job in a pack: its modules, optimiser, place in its data, best evaluation and random stream."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.data import TokenisedTask, token_count
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.identity import identifying_fields
from scalearn.layers.heads import Head, HeadConfig
from scalearn.methods.build import build_branch
from scalearn.methods.parameter_groups import parameter_groups
from scalearn.methods.registry import get_method
from scalearn.passes.batches import BatchPlan, epoch_batches, steps_per_epoch
from scalearn.pauses import pause_for
from scalearn.training.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint
from scalearn.training.learning_rate import learning_rate_factor, total_steps
from scalearn.training.pack import PackMember

_DROPOUT_SEED_OFFSET = 7_919
"""Keeps a job's dropout stream different from its initialisation, which uses the plain seed."""

_CHEAP_CHECKPOINT = 0.5
"""Seconds that a checkpoint may take to be written after every evaluation."""


@dataclass
class TrainingProgress:
    """The progress of a job. All fields are JSON values."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """How many batches of the current epoch are done."""
    evaluations: int = 0
    best_score: float = -math.inf
    """Minus the validation loss, or the metric: higher is better."""
    best_epoch: int = 0
    best_step: int = 0
    since_best: int = 0
    judged_step: int = 0
    """Step of the last evaluation. An evaluation that was interrupted is made when the job continues."""
    loss_sum: float = 0.0
    """Sum of the training losses since the last evaluation."""
    loss_steps: int = 0
    finished: bool = False
    stopped_early: bool = False
    stopped_by: str | None = None
    """`patience`, or `asha` if jobs with other learning rates did better. None: the job took all its steps."""
    train_seconds: float = 0.0
    """Wall time divided by the number of jobs that shared it, so that the sum over jobs is device time."""
    evaluate_seconds: float = 0.0
    micro_batches: int = 1
    pass_rows: int = 0
    """Rows of one pass that fitted, when the rows of a whole step did not. 0: no limit is known."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the gradient scaler at the last checkpoint. Empty unless the precision is fp16."""
    searched: bool = False
    """Whether the weights of the sources were searched (`scalearn.training.weight_search`)."""
    best_validation: dict[str, Any] = field(default_factory=dict)
    """Scores of the best evaluation, by task."""


class JobRun:
    """The state of one job while its pack trains."""

    def __init__(
        self,
        member: PackMember,
        encoder: Encoder,
        tasks: Sequence[TokenisedTask],
        sources: SourceAdapters | None,
        scaler: torch.amp.GradScaler | None = None,
        config: JobConfig | None = None,
    ) -> None:
        """Build the job's modules from its seed, then continue from the job's checkpoint if there is one.

        Args:
            member: The job.
            encoder: The shared backbone.
            tasks: The job's data.
            sources: The job's source adapters. None: its method has none.
            scaler: The job's own gradient scaler in fp16, whose state is kept in the checkpoints. None: another precision.
            config: The job with the sources that it selected. None: as the member has it.

        Raises:
            UserError: The checkpoint belongs to another job.
        """
        self.member = member
        self.config = config or member.config
        self.tasks = tasks
        self.sources = sources
        self.scaler = scaler
        self.branch = build_branch(self.config, encoder, sources)
        self.heads = _build_heads(encoder, tasks, self.config)
        self.device = encoder.device
        self.generator = torch.Generator().manual_seed(self.config.seed + _DROPOUT_SEED_OFFSET)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.branch, self.heads, self.config), fused=True)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        """The learning rates of the parameter groups before the schedule."""
        self.sizes = [len(task.splits["train"]) for task in tasks]
        self.total_steps = total_steps(self.config.optimisation, self.sizes)
        self.progress = TrainingProgress()
        self.best: dict[str, Tensor] = {}
        self.warnings: set[str] = {sentence for task in tasks for sentence in task.warnings}
        self.error: str | None = None
        self.last_checkpoint = time.monotonic()
        self._checkpoint_cost = 0.0
        self._plans: list[BatchPlan] = []
        self._lengths: dict[tuple[int, str], list[int]] = {}
        self._planned_epoch = -1
        self._resume()

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return steps_per_epoch(self.sizes, self.config.optimisation.batch_size)

    def learned(self) -> dict[str, nn.Parameter]:
        """Return every trainable parameter of the branch and the heads, by name."""
        parameters = {f"branch.{name}": parameter for name, parameter in self.branch.learned().items()}
        for index, head in enumerate(self.heads):
            learned = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
            parameters.update({f"head.{index}.{name}": parameter for name, parameter in learned.items()})
        return parameters

    def next_batch(self) -> BatchPlan:
        """Return the next step."""
        if self._planned_epoch != self.progress.epoch:
            optimisation = self.config.optimisation
            lengths = [self.lengths(task, "train") for task in range(len(self.tasks))] if optimisation.group_by_length else None
            self._plans = epoch_batches(
                self.sizes,
                optimisation.batch_size,
                self.config.seed,
                self.progress.epoch,
                optimisation.temperature,
                lengths,
                [task.joint_size for task in self.tasks],
            )
            self._planned_epoch = self.progress.epoch
        return self._plans[self.progress.position]

    def rows_by_length(self, task: int, split: str) -> list[int]:
        """Return the row numbers of a split, shortest input first."""
        lengths = self.lengths(task, split)
        return sorted(range(len(lengths)), key=lengths.__getitem__)

    def lengths(self, task: int, split: str) -> list[int]:
        """Return the tokens of every row of a split. See `token_count`."""
        key = (task, split)
        if key not in self._lengths:
            self._lengths[key] = [token_count(ids) for ids in self.tasks[task].splits[split]["input_ids"]]
        return self._lengths[key]

    def batch_seed(self) -> int:
        """Return the seed of the job's next batch, which determines its dropout masks."""
        return int(torch.randint(2**62, (), generator=self.generator))

    def train_mode(self, training: bool) -> None:
        """Switch the job's own modules to training or evaluation."""
        self.branch.train(training)
        for head in self.heads:
            head.train(training)

    def set_learning_rate(self) -> float:
        """Set the learning rates of the present step by the schedule, and return that of the first group."""
        factor = learning_rate_factor(self.progress.step, self.total_steps, self.config.optimisation.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self) -> None:
        """Take one optimiser step with the job's own gradients, clipped as if it trained alone. Then clear the gradients.

        In fp16, a step whose gradients overflowed is left out, and the job's next gradients are scaled less.
        """
        if self.scaler is None:
            self._clip_gradients()
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            self._clip_gradients()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _clip_gradients(self) -> None:
        limit = self.config.optimisation.max_gradient_norm
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(self.learned().values(), limit)

    def advance(self, loss: float) -> None:
        """Count a finished step."""
        progress = self.progress
        progress.loss_sum += loss
        progress.loss_steps += 1
        progress.step += 1
        progress.position += 1
        if progress.position >= self.steps_per_epoch:
            progress.epoch, progress.position = progress.epoch + 1, 0
        progress.finished = progress.step >= self.total_steps

    @property
    def due_for_evaluation(self) -> bool:
        """Whether the step just taken is the last of an evaluation interval."""
        every = self.config.optimisation.evaluate_every
        at_interval = self.progress.position == 0 if every is None else self.progress.step % every == 0
        return at_interval or self.progress.finished

    @property
    def awaits_evaluation(self) -> bool:
        """Whether an evaluation is due that has not been made yet."""
        return self.due_for_evaluation and self.progress.judged_step < self.progress.step

    @property
    def awaits_search(self) -> bool:
        """Whether numbers of the branch are still to be searched (`scalearn.training.weight_search`)."""
        return self.branch.searched and not self.progress.searched

    def judge(self, scores: Mapping[str, Mapping[str, float]], primary: Mapping[str, str]) -> None:
        """Keep the parameters if these validation scores are the best so far, and decide whether to stop.

        Args:
            scores: Values by task and metric, `loss` included.
            primary: The first metric of each task.
        """
        optimisation, progress = self.config.optimisation, self.progress
        # A task that is tested on its validation rows must not select, or its test rows would. If a job has only such tasks, they select.
        kept = {task.task.key for task in self.tasks if not task.task.splits.tests_on_validation}
        judged = [(task, values) for task, values in scores.items() if task in kept or not kept]
        if optimisation.selection == "loss":
            score = -sum(values["loss"] for _, values in judged) / len(judged)
        else:
            score = sum(values[primary[task]] for task, values in judged) / len(judged)
        progress.evaluations += 1
        progress.judged_step = progress.step
        if score > progress.best_score or not self.best:
            progress.best_score, progress.best_step, progress.since_best = score, progress.step, 0
            progress.best_epoch = math.ceil(progress.step / self.steps_per_epoch)
            progress.best_validation = {task: dict(values) for task, values in scores.items()}
            self.best = {name: parameter.detach().clone() for name, parameter in self.learned().items()}
        elif not self.awaits_search:  # else the job could stop before it is what its method says
            progress.since_best += 1
        if optimisation.patience is not None and progress.since_best >= optimisation.patience and not progress.finished:
            progress.finished = progress.stopped_early = True
            progress.stopped_by = "patience"

    def restore_best(self) -> None:
        """Put the parameters of the best evaluation into the modules."""
        with torch.no_grad():
            for name, parameter in self.learned().items():
                parameter.copy_(self.best[name])

    def checkpoint(self) -> None:
        """Write a checkpoint."""
        started = time.monotonic()
        tensors: dict[str, Tensor] = {f"parameter.{name}": parameter for name, parameter in self.learned().items()}
        tensors.update({f"best.{name}": tensor for name, tensor in self.best.items()})
        tensors.update(flatten_optimizer(self.optimizer))
        tensors["random"] = self.generator.get_state()
        self.progress.scaler = self.scaler.state_dict() if self.scaler is not None else {}
        save_checkpoint(self.member.directory, self.progress.step, tensors, vars(self.progress), identifying_fields(self.config))
        self.last_checkpoint = time.monotonic()
        self._checkpoint_cost = self.last_checkpoint - started

    def checkpoint_after(self, seconds: float = 0.0) -> None:
        """Write a checkpoint if the last one is at least as old as the given seconds.

        If writing takes long, as for a whole backbone and its optimiser, no checkpoint is written while that would take more than a
        twentieth of the time since the last one.
        """
        age = time.monotonic() - self.last_checkpoint
        if age >= seconds and (self._checkpoint_cost < _CHEAP_CHECKPOINT or age >= pause_for(self._checkpoint_cost)):
            self.checkpoint()

    def _resume(self) -> None:
        saved = load_checkpoint(self.member.directory)
        if saved is None:
            return
        if saved.job is not None:
            _require_same_job(saved.job, self.config, self.member.directory)
        with torch.no_grad():
            for name, parameter in self.learned().items():
                parameter.copy_(saved.tensors[f"parameter.{name}"])
        self.best = {
            name.removeprefix("best."): tensor.to(self.device) for name, tensor in saved.tensors.items() if name.startswith("best.")
        }
        restore_optimizer(self.optimizer, saved.tensors)
        self.generator.set_state(saved.tensors["random"])
        # Older versions could not interrupt evaluations: they wrote no checkpoint between a step and the evaluation after it.
        self.progress = TrainingProgress(**{"judged_step": saved.state["step"], **saved.state})
        if self.scaler is not None and self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)


def _require_same_job(saved: Mapping[str, Any], config: JobConfig, directory: Path) -> None:
    """Refuse to continue a job from another job's checkpoint. A setting that only one of the two knows is no difference."""
    own = identifying_fields(config)
    for name in sorted(saved.keys() | own.keys()):
        if saved.get(name) != own.get(name) and not (name.startswith("settings.") and (name not in saved or name not in own)):
            then, now = (json.dumps(fields.get(name, "default")) for fields in (saved, own))
            raise UserError(
                f"{directory} holds the checkpoint of another job ({name} is {then} there and {now} here): "
                "give another directory, or remove its checkpoint/ to start anew."
            )


def _build_heads(encoder: Encoder, tasks: Sequence[TokenisedTask], job: JobConfig) -> list[Head]:
    """Return one head per task, equal for all methods of a seed unless choices go through the pooler (docs/protocol.md, Heads)."""
    method, std = get_method(job.method), getattr(encoder.config, "initializer_range", 0.02)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        heads = []
        for task in tasks:
            labels = len(task.task.choices) or task.num_labels
            pooled = task.task.head == "multiple_choice" and method.pools_choices
            head = Head(HeadConfig(task.task.head, labels, encoder.head_dropout, pooled=pooled), encoder.hidden_size, std)
            if pooled:
                head.take_pooler(encoder.pooler, learns=method.owns_backbone)
            heads.append(head)
    return [head.to(encoder.device) for head in heads]
