"""The training steps and evaluations that `step.py` and `gpu.py` compare, on made-up rows of real lengths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from adapters import AutoAdapterModel
from torch import Tensor
from transformers import BertConfig

from scalearn.backbone.encoder import Encoder, bottleneck_config
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import PlainScalingBranch, ScalingBranch
from scalearn.passes.batches import merge_batches
from scalearn.passes.packed_heads import head_logits

Inputs = Mapping[str, Tensor]
Step = Callable[[Inputs], None]

VOCABULARY, LABELS = 30_522, 2
SOURCES = 8
"""Source adapters per transfer job on a GPU."""
SHAPES = {"tiny": (32, 2, 2), "minilm": (384, 6, 12), "roberta-base": (768, 12, 12)}
"""Hidden size, layers and heads."""


@dataclass(frozen=True)
class Setting:
    """What all paths of one table share."""

    size: str
    device: str
    precision: str
    attention: str = "eager"

    @property
    def dtype(self) -> torch.dtype:
        """The type in which autocast multiplies."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> torch.autocast:
        """Return a fresh context."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def model(self) -> Any:
        """Return a model of the adapters library with random weights."""
        hidden, layers, heads = SHAPES[self.size]
        shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden}
        return AutoAdapterModel.from_config(BertConfig(vocab_size=VOCABULARY, **shape), attn_implementation=self.attention).to(self.device)

    def encoder(self, *, pads: bool) -> Encoder:
        """Return this package's backbone of that size, as training holds it."""
        encoder = Encoder(self.model()).to(self.device)
        encoder.pads = pads
        if self.dtype is not torch.float32:
            encoder.hold_products_in(self.dtype)
        return encoder


def batch_of(lengths: Sequence[int], device: str, seed: int) -> Inputs:
    """Return random tokens, padded to the longest row, shortest row first, as training has them, and labels."""
    generator = torch.Generator().manual_seed(seed)
    ordered = sorted(lengths)
    mask = (torch.arange(ordered[-1]) < torch.tensor(ordered).unsqueeze(1)).long()
    ids = torch.randint(999, VOCABULARY, mask.shape, generator=generator) * mask
    labels = torch.randint(0, LABELS, (len(ordered),), generator=generator)
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def branches_of(name: str, encoder: Encoder, sources: int, jobs: int) -> list[Branch]:
    """Return the branches of so many jobs of a kind.

    Args:
        name: `adapter`, `scalearn`, `plain`, which is ScaLearn by its plain formula, or `adapterfusion`.
        encoder: Where they will sit.
        sources: The number of random source adapters, which the jobs share.
        jobs: The number of branches.
    """

    def adapter() -> BottleneckBranch:
        return BottleneckBranch(bottleneck_config({}), encoder.sites, encoder.hidden_size)

    if name == "adapter":
        return [adapter().to(encoder.device) for _ in range(jobs)]
    weights = [adapter().weights() for _ in range(sources)]
    stacks = [SourceStack([source[site] for source in weights]).to(encoder.device) for site in range(encoder.sites)]
    kinds: dict[str, Callable[[], Branch]] = {
        "scalearn": lambda: ScalingBranch(stacks, OmegaConfig()),
        "plain": lambda: PlainScalingBranch(stacks, OmegaConfig()),
        "adapterfusion": lambda: FusionBranch(stacks, attention_dropout=0.1),
    }
    return [kinds[name]().to(encoder.device) for _ in range(jobs)]


def branch_of(name: str, encoder: Encoder, sources: int) -> Branch:
    """Return the branch of one job. See `branches_of`."""
    return branches_of(name, encoder, sources, 1)[0]


@dataclass(frozen=True)
class Pack:
    """Jobs that share every pass, each with its own head and optimiser, as the training loop has them on a GPU."""

    setting: Setting
    encoder: Encoder
    branches: Sequence[Branch]
    heads: Sequence[Head]
    optimizers: Sequence[torch.optim.Optimizer]

    @classmethod
    def of(cls, setting: Setting, encoder: Encoder, branches: Sequence[Branch]) -> "Pack":
        """Give every branch a head and an optimiser."""
        heads = [Head(HeadConfig("classification", LABELS), encoder.hidden_size).to(setting.device) for _ in branches]
        learned = [[*branch.learned().values(), *head.parameters()] for branch, head in zip(branches, heads, strict=True)]
        return cls(setting, encoder, branches, heads, [torch.optim.AdamW(parameters, lr=1e-4) for parameters in learned])

    def part(self, job: int) -> "Pack":
        """Return one of the jobs alone."""
        return Pack(self.setting, self.encoder, [self.branches[job]], [self.heads[job]], [self.optimizers[job]])

    def step(self, batches: Sequence[Inputs], seeds: Sequence[int]) -> None:
        """Take a training step with one batch per job."""
        if not self.encoder.training:
            self.encoder.train()
        self._backward(batches, seeds)
        for optimizer in self.optimizers:
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def gradients(self, batches: Sequence[Inputs], seeds: Sequence[int], *, training: bool = True) -> list[list[Tensor]]:
        """Return each job's gradients, with dropout if `training`."""
        for module in (self.encoder, *self.branches, *self.heads):
            module.train(training)
        self._backward(batches, seeds)
        found = []
        for optimizer in self.optimizers:
            found.append([parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None])
            optimizer.zero_grad(set_to_none=True)
        return found

    def _backward(self, batches: Sequence[Inputs], seeds: Sequence[int]) -> None:
        device = self.setting.device
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in merge_batches(batches, pad_token_id=0).items()}
        blocks = [RowBlock(*batch["input_ids"].shape, seed=seed) for batch, seed in zip(batches, seeds, strict=True)]
        with self.setting.autocast():
            states = self.encoder(inputs, self.branches, blocks).split([block.rows for block in blocks])
            logits = head_logits(self.heads, states, blocks)
            jobs = zip(self.heads, logits, batches, strict=True)
            losses = [head.loss(scores, batch["labels"].to(device, non_blocking=True)) for head, scores, batch in jobs]
        torch.stack([loss.detach() for loss in losses]).tolist()  # training waits here, to see whether they are finite
        penalties = [penalty for branch in self.branches if (penalty := branch.penalty()) is not None]
        torch.stack([*losses, *penalties]).sum().backward()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def own_steps(setting: Setting, encoder: Encoder, branch: Branch) -> tuple[Step, Step]:
    """Return a training step and an evaluation pass of this package."""
    head = Head(HeadConfig("classification", LABELS), encoder.hidden_size).to(setting.device)
    optimizer = torch.optim.AdamW([*branch.learned().values(), *head.parameters()], lr=1e-4)
    seeds = iter(range(10**9))

    def logits(inputs: Inputs, *, training: bool) -> Tensor:
        for module in (encoder, branch, head):
            module.train(training)
        block = RowBlock(*inputs["input_ids"].shape, seed=next(seeds))
        with setting.autocast():
            scored: Tensor = head(encoder(inputs, [branch], [block]), block)
        return scored

    def train(inputs: Inputs) -> None:
        head.loss(logits(inputs, training=True), inputs["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate(inputs: Inputs) -> None:
        with torch.inference_mode():
            logits(inputs, training=False)

    return train, evaluate


def library_steps(setting: Setting) -> tuple[Step, Step]:
    """Return a training step and an evaluation pass as users of the adapters library write them, with one adapter."""
    model = setting.model()
    model.add_adapter("single", config=bottleneck_config({}))
    model.add_classification_head("single", num_labels=LABELS)
    model.train_adapter("single")
    model.to(setting.device)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)

    def train(inputs: Inputs) -> None:
        model.train()
        with setting.autocast():
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate(inputs: Inputs) -> None:
        model.eval()
        with torch.inference_mode(), setting.autocast():
            model(**inputs)

    return train, evaluate


def bare_products(setting: Setting) -> tuple[Step, Step]:
    """Return the matrix products on real tokens that no step can avoid, with the gradients of their inputs, and those without."""
    hidden, layers, _ = SHAPES[setting.size]
    shapes = [(hidden, hidden)] * 4 + [(hidden, 4 * hidden), (4 * hidden, hidden)]
    weights = [torch.randn(shape, device=setting.device, dtype=setting.dtype) for shape in shapes]

    def tokens(inputs: Inputs) -> dict[int, Tensor]:
        count = int(inputs["attention_mask"].sum())
        return {width: torch.ones(count, width, device=setting.device, dtype=setting.dtype) for width in (hidden, 4 * hidden)}

    def evaluate(inputs: Inputs) -> None:
        states = tokens(inputs)
        for weight in weights * layers:
            states[weight.shape[0]] @ weight

    def train(inputs: Inputs) -> None:
        states = tokens(inputs)
        for weight in weights * layers:
            states[weight.shape[0]] @ weight
            states[weight.shape[1]] @ weight.T

    return train, evaluate
