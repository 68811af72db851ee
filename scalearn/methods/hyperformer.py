"""HyperFormer and HyperFormer++ (Mahabadi et al. 2021): a hypernetwork makes each layer's adapter from a learned task embedding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import get_activation

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.adapter_tensors import bottleneck_width
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import BottleneckWeights

INIT_STD = 0.01
_activation = get_activation("gelu_new")


@dataclass(frozen=True)
class HyperConfig:
    """Sizes of the hypernetwork (docs/protocol.md, Baselines)."""

    width: int
    """Bottleneck width r of the adapters that the hypernetwork makes."""
    embedding: int = 512
    """Size of the embedding of a task, and of a layer."""
    hidden: int = 128
    """Hidden size of the network that projects the embedding."""
    projected: int = 64
    """Size of the projected embedding, which the generating maps read."""
    per_layer: bool = True
    """Own generating maps in every layer (`hyperformer`), or one set and layer embeddings (`hyperformer_pp`)."""


@dataclass(frozen=True)
class GeneratedAdapter:
    """The weights that the hypernetwork makes for one layer."""

    bottleneck: BottleneckWeights
    norm_weight: Tensor
    """`[d]`"""
    norm_bias: Tensor
    """`[d]`"""


class Generator(nn.Module):
    """Linear maps from a projected embedding to one adapter and the layer norm after it."""

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        """Draw normal weights, and set biases to 0."""
        super().__init__()
        self.hidden, self.width = hidden, width
        self.down_weight = _linear(inputs, width * hidden)
        self.down_bias = _linear(inputs, width)
        self.up_weight = _linear(inputs, hidden * width)
        self.up_bias = _linear(inputs, hidden)
        self.norm_weight = _linear(inputs, hidden)
        self.norm_bias = _linear(inputs, hidden)

    def forward(self, embedding: Tensor) -> GeneratedAdapter:
        """Make the weights for one projected embedding, `[projected]`."""
        bottleneck = BottleneckWeights(
            self.down_weight(embedding).view(self.width, self.hidden),
            self.down_bias(embedding),
            self.up_weight(embedding).view(self.hidden, self.width),
            self.up_bias(embedding),
        )
        return GeneratedAdapter(bottleneck, self.norm_weight(embedding), self.norm_bias(embedding))


class HyperformerBranch(Branch):
    """Adds `norm(U f(D x + a) + b)`. The task (and layer) determine D, a, U, b and the norm's weight and bias."""

    drawn_in_pass = ("_generated",)

    def __init__(self, config: HyperConfig, tasks: int, sites: int, hidden: int) -> None:
        """Draw everything from the global random stream: embeddings from Normal(0, 1), maps with a standard deviation of 0.01.

        Args:
            config: Sizes of the hypernetwork.
            tasks: Number of tasks of the job.
            sites: Number of layers that get an adapter.
            hidden: Hidden size d.
        """
        super().__init__()
        self.config = config
        self.sites = sites
        self.task_embeddings = nn.Parameter(torch.randn(tasks, config.embedding))
        self.layer_embeddings = None if config.per_layer else nn.Parameter(torch.randn(sites, config.embedding))
        inputs = config.embedding if config.per_layer else 2 * config.embedding
        self.projection = nn.Sequential(_linear(inputs, config.hidden), nn.ReLU(), _linear(config.hidden, config.projected))
        self.norm = nn.LayerNorm(config.projected, eps=1e-6)
        count = sites if config.per_layer else 1
        self.generators = nn.ModuleList([Generator(config.projected, hidden, config.width) for _ in range(count)])
        self._generated: list[GeneratedAdapter] | None = None

    def begin_pass(self) -> None:
        """Make all layers' adapters for the task whose rows come next."""
        self._generated = self._generate()

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        generated = (self._generate() if self._generated is None else self._generated)[site]
        weights = generated.bottleneck
        activated = _activation(functional.linear(hidden_states, weights.down_weight, weights.down_bias))
        output = functional.linear(activated, weights.up_weight, weights.up_bias)
        return functional.layer_norm(output, output.shape[-1:], generated.norm_weight, generated.norm_bias)

    def _generate(self) -> list[GeneratedAdapter]:
        projected = enumerate(self._projected(self.task))
        return [self.generators[site % len(self.generators)](embedding) for site, embedding in projected]

    def _projected(self, task: int) -> Iterable[Tensor]:
        """Return the projected embedding of a task for every site, each `[projected]`."""
        embedding = self.task_embeddings[task]
        if self.layer_embeddings is None:
            projected = self.norm(self.projection(embedding))
            return [projected] * self.sites
        joined = torch.cat([embedding.expand(self.sites, -1), self.layer_embeddings], dim=1)
        return list(self.norm(self.projection(joined)))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> HyperformerBranch:
    """Build `hyperformer` or `hyperformer_pp` for the job's tasks."""
    settings: dict[str, Any] = dict(config.settings)
    sizes = HyperConfig(
        width=bottleneck_width(encoder.hidden_size, settings["reduction_factor"]),
        embedding=settings["embedding"],
        hidden=settings["hidden"],
        projected=settings["projected"],
        per_layer=config.method == "hyperformer",
    )
    return HyperformerBranch(sizes, len(config.data), encoder.sites, encoder.hidden_size)
