"""LoRA (Hu et al. 2022): a product of two thin matrices beside linear modules of every layer, `W x + s B A x`, as PEFT computes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import Sizes, resolve_targets
from scalearn.config import JobConfig, Setting
from scalearn.formats.peft_layout import factor, tensor_names
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.random_streams import BRANCH_DROPOUT, RowDropout
from scalearn.methods.bottleneck import batched_linear


@dataclass(frozen=True)
class LoraShape:
    """What a LoRA computes, besides its weights."""

    modules: Sizes
    """Inputs and outputs of the linear modules at which it adds, by their names below the model's heads."""
    rank: int
    alpha: float
    dropout: float = 0.0
    """Share of the inputs of A that is zeroed in training."""
    rslora: bool = False
    """Whether B A is scaled by alpha / sqrt(rank), and not by alpha / rank."""

    @property
    def scale(self) -> float:
        """The factor s of `s B A x`."""
        return factor(self.rank, self.alpha, self.rslora)

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of method `lora` that build it."""
        targets = tuple(self.modules)
        return {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout, "target_modules": targets, "rslora": self.rslora}


class LoraBranch(Branch):
    """The trained `s B A x` at each of its modules."""

    def __init__(self, shape: LoraShape) -> None:
        """Begin as PEFT does: A as torch begins a linear layer, from the global random stream, and B at zero, so that nothing is added."""
        super().__init__(tuple(shape.modules))
        self.shape = shape
        sizes = shape.modules.values()
        self.down = nn.ParameterList(torch.empty(shape.rank, inputs) for inputs, _ in sizes)
        self.up = nn.ParameterList(torch.zeros(outputs, shape.rank) for _, outputs in sizes)
        for weight in self.down:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.dropouts = nn.ModuleList(RowDropout(shape.dropout, self.streams, BRANCH_DROPOUT + site) for site in range(len(sizes)))

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        down = functional.linear(self.dropouts[site](hidden_states), self.down[site])
        return functional.linear(down, self.up[site]) * self.shape.scale

    def pack_key(self) -> object:
        """Return a key: LoRAs of equal shape at the same modules run as one batched product."""
        return (tuple(self.shape.modules.items()), self.shape.rank, self.shape.scale)

    @classmethod
    def added_packed(cls, branches: Sequence[Branch], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute one batched product per matrix if the jobs have equal numbers of rows."""
        if len(set(rows)) > 1:
            return super().added_packed(branches, site, hidden_states, rows)
        members = [branch for branch in branches if isinstance(branch, LoraBranch)]
        parts = zip(members, hidden_states.split(list(rows)), strict=True)
        inputs = torch.stack([branch.dropouts[site](part).flatten(0, -2) for branch, part in parts])
        down = batched_linear(inputs, [branch.down[site] for branch in members])
        up = batched_linear(down, [branch.up[site] for branch in members])
        return up.view(*hidden_states.shape[:-1], -1) * members[0].shape.scale

    def tensors(self) -> dict[str, Tensor]:
        """Return A `[rank, inputs]` and B `[outputs, rank]` of each module, by PEFT's names."""
        pairs = zip(self.shape.modules, self.down, self.up, strict=True)
        return {name: weight for module, *pair in pairs for name, weight in zip(tensor_names(module), pair, strict=True)}


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> LoraBranch:
    """Build the LoRA of a job's settings.

    Raises:
        UserError: The backbone has no module of these names.
    """
    settings: dict[str, Any] = dict(config.settings)
    modules = target_sizes(encoder, settings["target_modules"])
    return LoraBranch(LoraShape(modules, settings["rank"], settings["alpha"], settings["dropout"], settings["rslora"]))


def target_sizes(encoder: Encoder, targets: Sequence[str]) -> Sizes:
    """Return the modules of an encoder that targets name, in the order of the model. No targets: the usual ones.

    Raises:
        UserError: A target names none, or none was named and no module has a usual name.
    """
    return {name: encoder.linear_modules[name] for name in resolve_targets(encoder.linear_modules, targets)}
