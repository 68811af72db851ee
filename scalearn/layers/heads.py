"""The head of a job: the adapters library's classification head, but with dropout from the job's own random stream."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scalearn.layers.random_streams import HEAD_DROPOUT, RowBlock

HeadKind = Literal["classification", "regression", "multi_label", "multiple_choice"]


@dataclass(frozen=True)
class HeadConfig:
    """What a head predicts."""

    kind: HeadKind
    labels: int
    """Classes, labels, or choices; 1 for regression."""
    dropout: float | None = None
    """None: the backbone's dropout if `attach` or `load_model` puts the head onto one, else the usual 0.1."""
    layers: Literal[1, 2] = 2
    """1: one linear map only, without dense layer and tanh."""
    pooled: bool = False
    """Whether the dense layer is the encoder's pooler. Then nothing is dropped before it, and it learns only if the whole encoder does."""

    @property
    def outputs(self) -> int:
        """Width of the last linear layer. It is 1 for multiple choice, which scores one choice at a time."""
        return 1 if self.kind == "multiple_choice" else self.labels


def head_shapes(config: HeadConfig, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a head's parameters for a hidden size, without building the head."""
    out: dict[str, tuple[int, ...]] = {"out.weight": (config.outputs, hidden), "out.bias": (config.outputs,)}
    return out if config.layers == 1 else {"dense.weight": (hidden, hidden), "dense.bias": (hidden,), **out}


class Head(nn.Module):
    """Dropout, dense, tanh, dropout, linear on the first token, as `add_classification_head` builds it.

    This is also the classification head of the RoBERTa family. With one layer: dropout, linear. With a pooler: dense, tanh, dropout,
    linear, which is the multiple choice head of the BERT and RoBERTa families.
    """

    def __init__(self, config: HeadConfig, hidden: int, init_std: float = 0.02) -> None:
        """Draw normal weights with `init_std`, and zero biases, from the global random stream, as the encoders' own initialiser does."""
        super().__init__()
        self.config = config
        self.dropout = 0.1 if config.dropout is None else config.dropout
        self.dense = nn.Linear(hidden, hidden) if config.layers == 2 else None
        self.out = nn.Linear(hidden, config.outputs)
        for layer in (self.dense, self.out):
            if layer is not None:
                nn.init.normal_(layer.weight, std=init_std)
                nn.init.zeros_(layer.bias)

    def take_pooler(self, pooler: nn.Linear | None, *, learns: bool) -> None:
        """Use the encoder's pooler as the dense layer.

        Args:
            pooler: The pretrained pooler. None: the checkpoint has none, and the weights that were drawn are used.
            learns: Whether it is trained, like the rest of the encoder.
        """
        assert self.dense is not None
        if pooler is not None:
            self.dense.load_state_dict(pooler.state_dict())
        self.dense.requires_grad_(learns)

    def forward(self, first_token: Tensor, block: RowBlock | None = None) -> Tensor:
        """Score rows by their first token.

        Args:
            first_token: Last hidden state of the first token, `[rows, hidden]`.
            block: Which rows these are, for the dropout. Default: the global random stream is used.

        Returns:
            Logits in float32: `[rows, labels]`; for multiple choice `[rows / choices, choices]`.
        """
        first = first_token if self.config.pooled else self._dropped(first_token, block, HEAD_DROPOUT)
        if self.dense is not None:
            first = self._dropped(torch.tanh(self.dense(first)), block, HEAD_DROPOUT + 1)
        logits: Tensor = self.out(first).float()
        return logits.view(-1, self.config.labels) if self.config.kind == "multiple_choice" else logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over rows: cross-entropy, squared error (regression) or binary cross-entropy (multi-label).

        Args:
            logits: `[rows, labels]`, as `forward` returns them.
            labels: Class or choice, `[rows]`; regression: values, `[rows]`; multi-label: 0 or 1, `[rows, labels]`.

        Returns:
            A scalar.
        """
        if self.config.kind == "regression":
            return functional.mse_loss(logits.view(-1), labels.float().view(-1))
        if self.config.kind == "multi_label":
            return functional.binary_cross_entropy_with_logits(logits, labels.float())
        return functional.cross_entropy(logits, labels)

    def _dropped(self, values: Tensor, block: RowBlock | None, number: int) -> Tensor:
        if not self.training or self.dropout == 0.0:
            return values
        return functional.dropout(values, self.dropout) if block is None else block.dropout(values, self.dropout, number)
