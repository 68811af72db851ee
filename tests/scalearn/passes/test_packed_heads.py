import pytest
import torch

from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.passes.packed_heads import batched_logits, head_logits

KINDS = [
    HeadConfig("classification", 3),
    HeadConfig("regression", 1),
    HeadConfig("multiple_choice", 2),
    HeadConfig("multi_label", 4, layers=1),
    HeadConfig("multiple_choice", 2, pooled=True),
]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
@pytest.mark.parametrize("training", [True, False])
def test_batched_heads_equal_each_head_alone_in_logits_and_gradients(config: HeadConfig, training: bool) -> None:
    torch.manual_seed(0)
    heads = [Head(config, hidden=16).train(training) for _ in range(3)]
    states = [torch.randn(4, 16, requires_grad=True) for _ in heads]
    inputs = [*states, *(parameter for head in heads for parameter in head.parameters())]
    blocks = [RowBlock(4, 1, 11), RowBlock(4, 1, 12), RowBlock(4, 1, 13, first=2, batch_lengths=(1,) * 6)]

    together = batched_logits(heads, states, blocks)
    alone = [head(rows, block) for head, rows, block in zip(heads, states, blocks, strict=True)]

    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(sum(logits.square().sum() for logits in scored), inputs) for scored in (together, alone)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_heads_of_unlike_jobs_keep_their_order_on_a_gpu() -> None:
    heads = [Head(config, hidden=16).cuda().eval() for config in (*KINDS, *KINDS)]
    states = [torch.randn(4, 16, device="cuda") for _ in heads]
    block = RowBlock(4, 1, 0)
    scored = head_logits(heads, states, [block] * len(heads))
    for head, rows, logits in zip(heads, states, scored, strict=True):
        torch.testing.assert_close(logits, head(rows, block), rtol=1e-4, atol=1e-5)
