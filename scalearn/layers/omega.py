"""The scaling coefficients omega, which ScaLearn learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scalearn.layers.random_streams import OMEGA_DROPOUT, dropout

Constraint = Literal["none", "mean", "softmax"]


@dataclass(frozen=True)
class OmegaConfig:
    """Shape, constraint and initialisation of omega (paper section 3; docs/protocol.md, Two stages)."""

    per_dimension: bool = True
    """One vector of hidden size per source (ScaLearn), or else one scalar (ScaLearnUniform)."""
    per_layer: bool = True
    """Own coefficients in every layer, or else one set for all layers (the ++ variants); of LoRAs, one set per kind of module."""
    constraint: Constraint = "none"
    """`mean` divides by the sum over sources; `softmax` normalises over sources. Both are ablations of the paper."""
    dropout: float = 0.3
    """Probability that an entry of omega is zeroed in training, before the constraint. It is drawn anew for every layer."""
    init_scale: float = 2.0
    """omega begins at Normal(init_scale / sources, 0.001)."""
    fixed: tuple[float, ...] | None = None
    """One value per source, never trained (the paper's probing). None: omega is learned."""


class Omega(nn.Module):
    """The omega of one job: a parameter of shape `[layers or kinds, sources, hidden or 1]`. There is one kind, except for LoRAs.

    Vectors over linear modules of unlike sizes lie one behind the other, `[1, sources, outputs of all modules or kinds]`.
    """

    INIT_STD = 0.001

    def __init__(
        self,
        config: OmegaConfig,
        layers: int,
        sources: int,
        hidden: int,
        generator: torch.Generator | None = None,
        kinds: Sequence[int] | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        """Draw the initial coefficients, or take the fixed ones.

        Args:
            config: Shape, constraint, dropout and initialisation.
            layers: Number of sites where sources are combined.
            sources: Number of source adapters T.
            hidden: Hidden size d.
            generator: Random stream of the initialisation, on CPU. Default: the global stream.
            kinds: The kind of each site, counted from 0. What layers share, they share among sites of one kind, such as all queries. None:
                all are of one kind.
            outputs: Size of the vectors at each site, equal within a kind. None: all have the hidden size.
        """
        super().__init__()
        self.config = config
        self.layers = layers
        self.kinds = tuple(kinds) if kinds is not None else (0,) * layers
        self._unlike = tuple(outputs) if outputs is not None and config.per_dimension and len(set(outputs)) > 1 else None
        shape = (layers if config.per_layer else max(self.kinds) + 1, sources, hidden if config.per_dimension else 1)
        if self.widths is not None:
            shape = (1, sources, sum(self.widths))
        if config.fixed is not None:
            values = torch.tensor(config.fixed, dtype=torch.float32).view(1, sources, 1).expand(shape).clone()
            self.omega = nn.Parameter(values, requires_grad=False)
        else:
            self.omega = nn.Parameter(torch.empty(shape).normal_(config.init_scale / sources, self.INIT_STD, generator=generator))

    def constrained(self) -> Tensor:
        """Return omega under its constraint, without dropout, in the parameter's shape."""
        return self._under_constraint(self.omega)

    @property
    def widths(self) -> tuple[int, ...] | None:
        """Sizes of the vectors that lie one behind the other, by module or, if layers share them, by kind. None: they do not."""
        if self._unlike is None:
            return None
        return self._unlike if self.config.per_layer else tuple(self._of_kinds(self._unlike))

    def by_site(self, omega: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the coefficients of each site, as `forward` does, from those in the parameter's shape."""
        return self._cut(self._repeated(omega))

    def _of_kinds(self, sizes: Sequence[int]) -> list[int]:
        """Return the size of each kind from those of the sites."""
        return [sizes[self.kinds.index(kind)] for kind in range(max(self.kinds) + 1)]

    def _repeated(self, omega: Tensor) -> Tensor:
        """Repeat shared coefficients for each site."""
        if self._unlike is not None and self.config.per_layer:
            return omega
        if self._unlike is not None:
            parts = omega.split(self._of_kinds(self._unlike), dim=-1)
            return torch.cat([parts[kind] for kind in self.kinds], dim=-1)
        if len(omega) in (1, self.layers):
            return omega.expand(self.layers, -1, -1)
        return omega[list(self.kinds)]

    def _cut(self, repeated: Tensor) -> Tensor | tuple[Tensor, ...]:
        return repeated if self._unlike is None else tuple(repeated[0].split(self._unlike, dim=-1))

    def forward(self, seed: int | None = None) -> Tensor | tuple[Tensor, ...]:
        """Return the coefficients of one training step or evaluation.

        Args:
            seed: Seed of the job's pass, for the dropout. Default: the global random stream.

        Returns:
            `[layers, sources, hidden or 1]`, or `[sources, outputs]` for each site if their sizes are unlike.
            Shared coefficients are repeated for each layer, each with its own dropout.
        """
        rate = self.config.dropout
        if not self.training or rate == 0.0:
            return self.by_site(self.constrained())
        # As in the official code, entries are dropped first, and the mean or softmax is taken over those that are left.
        return self._cut(self._under_constraint(dropout(self._repeated(self.omega), rate, seed, OMEGA_DROPOUT)))

    def _under_constraint(self, omega: Tensor) -> Tensor:
        if self.config.constraint == "softmax":
            return omega.softmax(dim=1)
        if self.config.constraint == "none":
            return omega
        # If every source is dropped, the mean is 0 / 0, which would end the job. Nothing is added there instead.
        return omega / omega.sum(dim=1, keepdim=True).masked_fill((omega == 0.0).all(dim=1, keepdim=True), 1.0)
