"""ScaLearn with gates: omega as a small function of the token, `omega_t(x) = sigmoid(w_t . x + b_t)`, one number per source and site.

It is the smallest step beyond linear relations. With w = 0 it is ScaLearnUniform with omegas between 0 and 1.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import ParameterGroup
from scalearn.layers.random_streams import OMEGA_DROPOUT, kept
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.source_branch import SourceBranch

HIGHEST_START = 2.0 / 3.0
"""Where omega begins with one or two sources. ScaLearn's 2 / T is then 1 or more, which no sigmoid reaches, and near which none learns."""


class GatedBranch(SourceBranch):
    """One linear map per site, from the hidden state to a gate per source."""

    drawn_in_pass = ("_drawn",)
    observes = True

    def __init__(self, stacks: Sequence[SourceStack], dropout: float, weight_decay: float, modules: Sequence[str] | None = None) -> None:
        """Begin with gates that do not depend on the token and are ScaLearn's first omegas, 2 / T.

        Args:
            stacks: The frozen sources, one stack per site.
            dropout: Probability that a gate is zeroed in training, drawn anew for every site and pass, for all tokens alike.
            weight_decay: Weight decay of w.
            modules: The linear modules at which the sources add, if they are LoRAs.
        """
        super().__init__(stacks, modules)
        self.dropout, self.weight_decay = dropout, weight_decay
        self.start = min(2.0 / stacks[0].sources, HIGHEST_START)
        self.maps = tuple(nn.Linear(stack.size[0], stack.sources) for stack in stacks)
        self.gates = nn.ModuleList(self.maps)
        for gate in self.maps:
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, math.log(self.start / (1.0 - self.start)))
        self._drawn: Tensor | None = None
        self._sums: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def begin_pass(self) -> None:
        """Draw which gates are dropped at all sites."""
        self._drawn = self._kept()

    def _kept(self) -> Tensor | None:
        """Return 0 for each gate that is dropped and 1 / (1 - rate) for each other, `[sites, T]`. None: nothing is dropped."""
        if not self.training or self.dropout == 0.0:
            return None
        seed, bias = self.streams.blocks[0].seed if self.streams.blocks else None, self.maps[0].bias
        return kept((len(self.maps), len(bias)), bias, self.dropout, seed, OMEGA_DROPOUT) / (1.0 - self.dropout)

    def combined(self, site: int, hidden_states: Tensor, bottleneck: Tensor) -> Tensor:
        """See `SourceBranch.combined`."""
        omega = self.maps[site](hidden_states).sigmoid()
        drawn = self._drawn if self.streams.blocks else self._kept()
        if drawn is not None:
            omega = omega * drawn[site].to(omega.dtype)
        if not self.training and self.streams.blocks and self.streams.blocks[0].batch_lengths is not None:
            self._add_up(site, omega, self.streams.blocks[0].batch_lengths)
        return self._stacks[site].sum_by_token(bottleneck, omega)

    def parameter_groups(self, config: JobConfig) -> list[ParameterGroup]:
        """Give the maps their own weight decay, 0 unless the sweep sets `omega_weight_decay`. Their biases have none."""
        return [ParameterGroup(tuple(self.learned().values()), config.optimisation.learning_rate, self.weight_decay)]

    def train(self, mode: bool = True) -> "GatedBranch":
        """Change the mode. An evaluation begins with that, so what was added up before, perhaps for a part of the rows, is forgotten."""
        self._sums, self._tokens = {}, {}
        return super().train(mode)

    def facts(self) -> dict[str, Any]:
        """Return omega's mean over the tokens of the last evaluation, `[sites, T]`, and where it began."""
        if len(self._sums) < len(self.maps):
            return {}
        means = [(self._sums[site] / self._tokens[site]).tolist() for site in range(len(self.maps))]
        return {"omega": {"mean": means, "start": self.start}}

    def _add_up(self, site: int, omega: Tensor, lengths: Sequence[int]) -> None:
        """Add the omegas of an evaluation's tokens, `[..., T]`, without padding. The last site may have each row's first token alone."""
        layout = self.streams.layout
        if layout is not None:
            real = omega[0, : layout.real_tokens] if omega.shape[1] == layout.tokens else omega[0]
        elif omega.shape[1] > 1:
            real = torch.cat([row[:length] for row, length in zip(omega, lengths, strict=True)])
        else:
            real = omega.flatten(0, 1)
        self._sums[site] = real.float().sum(0) + self._sums.get(site, 0.0)
        self._tokens[site] = self._tokens.get(site, 0) + len(real)


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> GatedBranch:
    """Build the gates of a job."""
    assert sources is not None
    settings: dict[str, Any] = dict(config.settings)
    return GatedBranch(sources.stacks, settings["omega_dropout"], settings["omega_weight_decay"], sources.modules)
