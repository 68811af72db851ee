"""The ScaLearn family: learned coefficients scale the outputs of the sources, which are then added."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import kinds_of
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch, ParameterGroup
from scalearn.layers.omega import Omega, OmegaConfig
from scalearn.layers.source_stack import SourceStack, plain_weighted_sum
from scalearn.methods.source_branch import SourceBranch


class ScalingBranch(SourceBranch):
    """`sum_t omega_t * up_t(x)` (paper equation 3 and its uniform and shared variants)."""

    drawn_in_pass = ("_drawn",)

    def __init__(
        self,
        stacks: Sequence[SourceStack],
        config: OmegaConfig,
        generator: torch.Generator | None = None,
        modules: Sequence[str] | None = None,
    ) -> None:
        """Initialise omega for the stacks' sources and hidden size.

        Args:
            stacks: The frozen sources, one stack per site.
            config: Shape, constraint, dropout and initialisation of omega.
            generator: Random stream of the initialisation, on CPU.
            modules: The linear modules at which the sources add, if they are LoRAs.
        """
        super().__init__(stacks, modules)
        outputs = [stack.up_bias.shape[1] for stack in stacks]
        kinds = None if modules is None else kinds_of(modules)
        self.omega = Omega(config, len(stacks), stacks[0].sources, outputs[0], generator, kinds, outputs)
        self._drawn: Tensor | tuple[Tensor, ...] | None = None

    def begin_pass(self) -> None:
        """Draw the coefficients of all sites at once, with one dropout mask per pass."""
        self._drawn = self._draw()

    def coefficients(self, site: int) -> Tensor:
        """Return omega at a site, `[T, outputs or 1]`: that of this pass, or drawn for this call outside a pass."""
        drawn = self._draw() if self._drawn is None else self._drawn
        return drawn[site]

    def _draw(self) -> Tensor | tuple[Tensor, ...]:
        drawn: Tensor | tuple[Tensor, ...] = self.omega(self.streams.blocks[0].seed if self.streams.blocks else None)
        return drawn

    def combined(self, site: int, hidden_states: Tensor, bottleneck: Tensor) -> Tensor:
        """See `SourceBranch.combined`."""
        return self._stacks[site].weighted_sum(bottleneck, self.coefficients(site))

    @classmethod
    def added_packed(cls, branches: Sequence[Branch], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute one batched product for all jobs if they have equal numbers of rows."""
        if len(set(rows)) > 1:
            return super().added_packed(branches, site, hidden_states, rows)
        members = [branch for branch in branches if isinstance(branch, ScalingBranch)]
        stack = members[0].stacks[site]
        hidden = stack.up_bias.shape[1]
        omegas = torch.stack([branch.coefficients(site).expand(-1, hidden) for branch in members])
        return stack.packed_weighted_sum(stack.bottleneck(hidden_states), omegas)

    def learned(self) -> dict[str, nn.Parameter]:
        """Return omega, under the name `omega`."""
        return {"omega": self.omega.omega} if self.omega.omega.requires_grad else {}

    def parameter_groups(self, config: JobConfig) -> list[ParameterGroup]:
        """Give omega its own weight decay, 0 unless the sweep sets `omega_weight_decay`."""
        decay = config.settings.get("omega_weight_decay", 0.0)
        return [ParameterGroup(tuple(self.learned().values()), config.optimisation.learning_rate, float(str(decay)))]


class PlainScalingBranch(ScalingBranch):
    """The same sum computed source by source, as in the paper: the reference for tests and benchmarks."""

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        return plain_weighted_sum(self._stacks[site], hidden_states, self.coefficients(site))

    def pack_key(self) -> object:
        """Return a key that no other job has, so that the job runs alone."""
        return id(self)


_SHAPES: dict[str, dict[str, Any]] = {
    "scalearn": {},
    "scalearn_uniform": {"per_dimension": False},
    "scalearn_pp": {"per_layer": False},
    "scalearn_uniform_pp": {"per_dimension": False, "per_layer": False},
    "scalearn_mean": {"constraint": "mean"},
    "scalearn_softmax": {"constraint": "softmax"},
}


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> ScalingBranch:
    """Build the variant of the job's method."""
    assert sources is not None
    settings: dict[str, Any] = dict(config.settings)
    omega = OmegaConfig(dropout=settings["omega_dropout"], init_scale=settings["omega_init_scale"], **_SHAPES[config.method])
    return ScalingBranch(sources.stacks, omega, modules=sources.modules)


def build_fixed(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> ScalingBranch:
    """Build omegas that keep the values of the job's setting `omega`. Only the head is learned (docs/protocol.md, Analyses)."""
    assert sources is not None
    settings: dict[str, Any] = dict(config.settings)
    return _fixed(sources, tuple(settings["omega"]))


def build_average(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> ScalingBranch:
    """Build the mean of the sources' outputs: omegas that stay at 1 / T. Of one source, it is the source."""
    assert sources is not None
    count = len(sources.names)
    return _fixed(sources, (1.0 / count,) * count)


def build_single(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> ScalingBranch:
    """Build one source as it is.

    Raises:
        UserError: The job has several.
    """
    assert sources is not None
    if len(sources.names) > 1:
        raise UserError(
            f"Method '{config.method}' has one source in each job, not {', '.join(sources.names)}: "
            "make one job per source, as a sweep does, and keep the one with the best validation score."
        )
    return build_average(config, encoder, sources)


def _fixed(sources: SourceAdapters, omega: tuple[float, ...]) -> ScalingBranch:
    config = OmegaConfig(per_dimension=False, per_layer=False, dropout=0.0, fixed=omega)
    return ScalingBranch(sources.stacks, config, modules=sources.modules)
