"""AdapterSoup (Chronopoulou et al. 2023): average the weights of the sources most similar to the target, then train the average."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.one_module import OneAdapter, OneLora, stacked_weights


class SoupBranch(OneAdapter):
    """An ordinary adapter that begins as a weighted average of others."""

    def __init__(self, sources: SourceAdapters, weights: Mapping[str, float]) -> None:
        """Average the named sources.

        Args:
            sources: All candidates.
            weights: Weights of the sources in the soup, by name. Their sum is 1.
        """
        super().__init__(sources)
        self.soup = dict(weights)
        self.take(_averages(sources, weights))

    def facts(self) -> dict[str, Any]:
        """Return the soup's weights by source."""
        return {"soup": self.soup}


class LoraSoupBranch(OneLora):
    """An ordinary LoRA that begins as a weighted average of others: of their A, and of their B."""

    def __init__(self, sources: SourceAdapters, weights: Mapping[str, float]) -> None:
        """Average the named sources. See `SoupBranch`.

        Raises:
            UserError: They differ in rank, modules or factor.
        """
        super().__init__(sources, "adaptersoup")
        self.soup = dict(weights)
        self.take(_averages(sources, weights))

    def facts(self) -> dict[str, Any]:
        """Return the soup's weights by source."""
        return {"soup": self.soup}


def _averages(sources: SourceAdapters, weights: Mapping[str, float]) -> list[BottleneckWeights]:
    shares = torch.tensor([weights.get(name, 0.0) for name in sources.names])
    return [average(stacked_weights(stack), shares) for stack in sources.stacks]


def average(stacked: BottleneckWeights, shares: Tensor) -> BottleneckWeights:
    """Return the weighted average of adapters.

    Args:
        stacked: Weights as in `SourceStack`: `[T r, d]`, `[T r]`, `[d, T, r]` and `[T, d]`.
        shares: Weight of each adapter: `[T]`.
    """
    count, shares = len(shares), shares.to(stacked.up_bias)
    return BottleneckWeights(
        torch.einsum("t,trd->rd", shares, stacked.down_weight.unflatten(0, (count, -1))),
        torch.einsum("t,tr->r", shares, stacked.down_bias.unflatten(0, (count, -1))),
        torch.einsum("t,dtr->dr", shares, stacked.up_weight),
        torch.einsum("t,td->d", shares, stacked.up_bias),
    )


def soup_weights(similarity: Mapping[str, float], top: int) -> dict[str, float]:
    """Return the weights of the `top` most similar sources: their similarities divided by the sum. A negative similarity counts as 0.

    Args:
        similarity: Similarity of each candidate to the target. The target itself is a candidate.
        top: Number of sources in the soup.
    """
    chosen = sorted(similarity, key=lambda name: similarity[name], reverse=True)[:top]
    positive = {name: max(0.0, similarity[name]) for name in chosen}
    total = sum(positive.values())
    if total == 0.0:
        return dict.fromkeys(chosen, 1.0 / len(chosen))
    return {name: value / total for name, value in positive.items()}


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> Branch:
    """Build the soup of the job's sources by their similarity to its task.

    Raises:
        UserError: The similarity of a source is not known, or the sources are unlike LoRAs.
    """
    assert sources is not None
    unknown = [name for name in sources.names if name not in sources.similarity]
    if unknown:
        raise UserError(
            f"The similarity of {', '.join(unknown)} to {config.task} is not known: run the similarity job of this sweep again."
        )
    top = config.settings["top"]
    assert isinstance(top, int)
    weights = soup_weights({name: sources.similarity[name] for name in sources.names}, top)
    return SoupBranch(sources, weights) if sources.lora is None else LoraSoupBranch(sources, weights)
