"""Gates against a loop of a few lines, where they begin, what is dropped, and what a job says of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scalearn
from scalearn.backbone.encoder import Encoder
from scalearn.config import DataConfig
from scalearn.data import collate, tokenised
from scalearn.errors import UserError
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.gating import GatedBranch
from scalearn.methods.parameter_counts import method_counts
from scalearn.methods.registry import get_method
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.export import fold
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import save_lora
from tests.scalearn.helpers.packs import result, train_pack
from tests.scalearn.helpers.small import data, job, run

NAMES = ("apple", "coachella")
TASK = data("domains/apple")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny.encoder_of(tiny.library_model("bert"))


def gated(stacks: list[SourceStack] | tuple[SourceStack, ...], modules: tuple[str, ...] | None = None, dropout: float = 0.0) -> GatedBranch:
    branch = GatedBranch(stacks, dropout, 0.0, modules)
    generator = torch.Generator().manual_seed(3)
    for gate in branch.maps:
        nn.init.normal_(gate.weight, std=0.5, generator=generator)
        nn.init.normal_(gate.bias, generator=generator)
    return branch.eval()


def by_loop(branch: GatedBranch, site: int, states: Tensor) -> Tensor:
    """`sum_t sigmoid(w_t . x + b_t) * (U_t f(D_t x + a_t) + b_t)`, token by token and source by source."""
    stack, gate = branch.stacks[site], branch.maps[site]
    width, total = stack.up_weight.shape[2], []
    for x in states.flatten(0, 1):
        parts = []
        for source in range(stack.sources):
            inner = slice(source * width, (source + 1) * width)
            z = stack.activation(stack.down_weight[inner] @ x + stack.down_bias[inner])
            omega = 1 / (1 + torch.exp(-(gate.weight[source] @ x + gate.bias[source])))
            parts.append(omega * (stack.up_weight[:, source] @ z + stack.up_bias[source]))
        total.append(torch.stack(parts).sum(0))
    return torch.stack(total).view(*states.shape[:-1], -1)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_gates_and_their_gradients_are_their_equation(kind: str, encoder: Encoder, tmp_path: Path) -> None:
    if kind == "adapter":
        branch = gated(tiny.random_stacks(2, 3, 32, 4))
    else:
        for number, module in enumerate(("intermediate.dense", "query", "output.dense")):  # unlike inputs, outputs and modules
            save_lora(encoder, tmp_path / module, (module,), rank=2 + number, seed=number)
        sources = load_source_adapters(encoder, {path.name: path for path in sorted(tmp_path.iterdir())})
        branch = gated(sources.stacks, sources.modules)
    for site, stack in enumerate(branch.stacks):
        states, weights = torch.randn(2, 5, stack.size[0]), torch.randn(2, 5, stack.size[1])
        found = []
        for added in (branch.added(site, states), by_loop(branch, site, states)):
            branch.zero_grad()
            (added * weights).sum().backward()
            found.append((added.detach(), branch.maps[site].weight.grad, branch.maps[site].bias.grad))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("sources", "start"), [(1, 2 / 3), (2, 2 / 3), (3, 2 / 3), (5, 0.4), (8, 0.25)])
def test_gates_begin_as_scalearns_omegas_unless_no_sigmoid_reaches_them(sources: int, start: float) -> None:
    branch = GatedBranch(tiny.random_stacks(2, sources, 32, 4), 0.3, 0.0)
    for gate in branch.maps:
        torch.testing.assert_close(gate(torch.randn(7, 32)).sigmoid(), torch.full((7, sources), start))


def test_gates_without_a_map_are_uniform_omegas_with_the_same_dropout(encoder: Encoder) -> None:
    stacks = tiny.random_stacks(2, 3, 32, 4)
    uniform = ScalingBranch(stacks, OmegaConfig(per_dimension=False, dropout=0.3))
    branch = GatedBranch(stacks, 0.3, 0.0)
    nn.init.constant_(uniform.omega.omega, branch.start)
    ours, theirs, other = (
        encoder(batch(), [each.train()], [RowBlock(*batch()["input_ids"].shape, seed)])
        for each, seed in ((branch, 5), (uniform, 5), (branch, 6))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, other), "another batch drops the same gates"


def test_parameters_are_those_that_the_formulas_count(encoder: Encoder, tmp_path: Path) -> None:
    method = get_method("scalearn_gated")
    for number in range(3):
        save_lora(encoder, tmp_path / str(number), rank=4, seed=number)
    loras = load_source_adapters(encoder, {path.name: path for path in sorted(tmp_path.iterdir())})
    cases = ((gated(tiny.random_stacks(2, 3, 32, 8)), None), (gated(loras.stacks, loras.modules), 4))
    for branch, rank in cases:
        counted = method_counts(method, tiny.shape(encoder), sources=3, lora_rank=rank)
        assert counted is not None
        assert counted["transfer"] == sum(parameter.numel() for parameter in branch.learned().values())


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_job_reloads_says_its_mean_gates_and_is_not_folded(kind: str, backbone: str, tmp_path: Path) -> None:
    for name in NAMES:
        assert run(job(kind, (data(f"domains/{name}"),), backbone, learning_rate=3e-2), tmp_path / name).error is None
    places = {name: tmp_path / name for name in NAMES}
    config = replace(job("scalearn_gated", (TASK,), backbone, {}, 0, NAMES, learning_rate=1e-2, epochs=2), source_method=kind)
    outcome = run(config, tmp_path / "job", places)
    assert outcome.error is None, outcome.error
    left = result(tmp_path / "job")
    model: Any = scalearn.load_model(tmp_path / "job", scalearn.load_backbone(backbone), places)
    assert model.evaluate(TASK) == pytest.approx(left["scores"]["domains/apple"]["test"], rel=1e-5)
    assert left["omega"]["start"] == pytest.approx(2 / 3)
    expected = mean_gates(model, TASK)
    torch.testing.assert_close(torch.tensor(left["omega"]["mean"]), expected, atol=1e-5, rtol=0)
    assert (expected - 2 / 3).abs().max() > 1e-3
    (padded,) = train_pack([config], tmp_path / "padded", places, shared_passes=True)
    assert padded.error is None, padded.error
    torch.testing.assert_close(torch.tensor(result(tmp_path / "padded/0")["omega"]["mean"]), expected, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="Method 'scalearn_gated' is no sum of source adapters with fixed weights"):
        fold(model)


def mean_gates(model: Any, task: DataConfig) -> Tensor:
    """Row by row, so that nothing is padded."""
    backbone, seen = model.backbone, [[] for _ in model.branch.maps]  # type: ignore[var-annotated]
    hooks = [
        gate.register_forward_hook(lambda _, __, output, site=site: seen[site].append(output.sigmoid().flatten(0, 1)))
        for site, gate in enumerate(model.branch.maps)
    ]
    rows = tokenised(task, backbone.tokenizer, backbone.backbone.origin, root=None, cache=None).splits["validation"]
    model.encoder.pads = True
    with torch.no_grad():
        for row in rows:
            inputs = {name: tensor for name, tensor in collate([row], 0).items() if name != "labels"}
            model.encoder(inputs, [model.branch], [RowBlock(*inputs["input_ids"].shape, 0)])
    for hook in hooks:
        hook.remove()
    model.encoder.pads = False
    return torch.stack([torch.cat(each).mean(0) for each in seen])
