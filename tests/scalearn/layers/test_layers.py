"""Properties of the transfer layer: folded equals plain, packed equals single, whatever the sizes."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from adapters.configuration import SeqBnConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalearn.layers.branch import Branch
from scalearn.layers.omega import Omega, OmegaConfig
from scalearn.layers.random_streams import OMEGA_DROPOUT, RowBlock, kept
from scalearn.layers.source_stack import SourceStack, plain_weighted_sum
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import PlainScalingBranch, ScalingBranch
from scalearn.passes.batches import merge_batches
from tests.scalearn.helpers.tiny import CONFIGS, HIDDEN, LAYERS, random_stacks, tiny_encoder, token_batch

SIZES = {
    "sources": st.integers(1, 6),
    "hidden": st.integers(1, 24),
    "width": st.integers(1, 9),
    "rows": st.integers(1, 4),
    "length": st.integers(1, 5),
    "seed": st.integers(0, 1000),
}
OMEGAS = st.builds(
    OmegaConfig,
    per_dimension=st.booleans(),
    per_layer=st.booleans(),
    constraint=st.sampled_from(["none", "mean", "softmax"]),
    dropout=st.sampled_from([0.0, 0.3]),
)


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def layer_gradients(run: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, omega: Tensor, weights: Tensor) -> list[Tensor]:
    """Output and gradients of a layer with respect to its input and omega."""
    hidden, omega = hidden.clone().requires_grad_(), omega.clone().requires_grad_()
    output = run(hidden, omega)
    (output * weights).sum().backward()
    assert hidden.grad is not None
    assert omega.grad is not None
    return [output.detach(), hidden.grad, omega.grad]


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for own, given_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, given_, atol=1e-5 * max(1.0, float(given_.abs().max())), rtol=0)


@settings(deadline=None, max_examples=60)
@given(per_dimension=st.booleans(), activation=st.sampled_from([torch.relu, torch.nn.functional.gelu, torch.tanh]), **SIZES)
def test_folded_layer_equals_plain_layer(
    sources: int, hidden: int, width: int, rows: int, length: int, seed: int, per_dimension: bool, activation: Callable[[Tensor], Tensor]
) -> None:
    (stack,) = random_stacks(1, sources, hidden, width, seed)
    stack.activation = activation
    stack.rectified = False
    states, weights = random(rows, length, hidden, seed=seed + 1), random(rows, length, hidden, seed=seed + 2)
    omega = random(sources, hidden if per_dimension else 1, seed=seed + 3)
    folded = layer_gradients(lambda x, o: stack.weighted_sum(stack.bottleneck(x), o), states, omega, weights)
    plain = layer_gradients(lambda x, o: plain_weighted_sum(stack, x, o), states, omega, weights)
    assert_close(folded, plain)


@settings(deadline=None, max_examples=40)
@given(**SIZES)
def test_rectified_layer_equals_plain_layer(sources: int, hidden: int, width: int, rows: int, length: int, seed: int) -> None:
    (stack,) = random_stacks(1, sources, hidden, width, seed)
    states, weights = random(rows, length, hidden, seed=seed + 1), random(rows, length, hidden, seed=seed + 2)
    omega = random(sources, hidden, seed=seed + 3)
    folded = layer_gradients(lambda x, o: stack.weighted_sum(stack.bottleneck(x), o), states, omega, weights)
    plain = layer_gradients(lambda x, o: plain_weighted_sum(stack, x, o), states, omega, weights)
    assert_close(folded, plain)


@settings(deadline=None, max_examples=40)
@given(jobs=st.integers(1, 4), per_dimension=st.booleans(), **SIZES)
def test_packed_sum_equals_each_jobs_own_sum(
    jobs: int, sources: int, hidden: int, width: int, rows: int, length: int, seed: int, per_dimension: bool
) -> None:
    (stack,) = random_stacks(1, sources, hidden, width, seed)
    states, weights = random(jobs * rows, length, hidden, seed=seed + 1), random(jobs * rows, length, hidden, seed=seed + 2)
    omega = random(jobs, sources, hidden if per_dimension else 1, seed=seed + 3)

    def single(x: Tensor, o: Tensor) -> Tensor:
        parts = x.split(rows)
        return torch.cat([stack.weighted_sum(stack.bottleneck(part), own) for part, own in zip(parts, o, strict=True)])

    packed = layer_gradients(lambda x, o: stack.packed_weighted_sum(stack.bottleneck(x), o), states, omega, weights)
    assert_close(packed, layer_gradients(single, states, omega, weights))


@settings(deadline=None, max_examples=25)
@given(
    config=OMEGAS,
    sources=st.integers(1, 4),
    width=st.integers(1, 6),
    rows=st.integers(1, 3),
    length=st.integers(2, 9),
    seed=st.integers(0, 1000),
)
def test_folded_branch_equals_plain_branch_in_a_whole_encoder(
    config: OmegaConfig, sources: int, width: int, rows: int, length: int, seed: int
) -> None:
    encoder, inputs = tiny_encoder(), token_batch(rows, length, seed)
    stacks = random_stacks(LAYERS, sources, HIDDEN, width, seed)
    results = []
    for kind in (ScalingBranch, PlainScalingBranch):
        branch = kind(stacks, config, torch.Generator().manual_seed(seed))
        encoder.train()
        branch.train()
        states = encoder(inputs, [branch], [RowBlock(rows, length, seed)])
        encoder.eval()
        (states * random(*states.shape, seed=seed)).sum().backward()
        gradient = branch.omega.omega.grad
        assert gradient is not None
        results.append([states.detach(), gradient])
    assert_close(*results)


STACKS = random_stacks(LAYERS, 3, HIDDEN, 8, seed=1)
OTHER_STACKS = random_stacks(LAYERS, 2, HIDDEN, 5, seed=2)
BRANCHES: dict[str, Callable[[], Branch]] = {
    "scalearn": lambda: ScalingBranch(STACKS, OmegaConfig()),
    "uniform": lambda: ScalingBranch(STACKS, OmegaConfig(per_dimension=False)),
    "shared": lambda: ScalingBranch(STACKS, OmegaConfig(per_layer=False)),
    "other sources": lambda: ScalingBranch(OTHER_STACKS, OmegaConfig(constraint="softmax", dropout=0.0)),
    "plain": lambda: PlainScalingBranch(STACKS, OmegaConfig()),
    "fusion": lambda: FusionBranch(STACKS, attention_dropout=0.1),
    "adapter": lambda: BottleneckBranch(SeqBnConfig(reduction_factor=4), LAYERS, HIDDEN),
    "wide adapter": lambda: BottleneckBranch(SeqBnConfig(reduction_factor=1), LAYERS, HIDDEN),
}


@settings(deadline=None, max_examples=30)
@given(
    members=st.lists(
        st.tuples(st.sampled_from(sorted(BRANCHES)), st.integers(1, 3), st.integers(2, 9), st.integers(0, 99)),
        min_size=2,
        max_size=5,
    ),
    training=st.booleans(),
    architecture=st.sampled_from(sorted(CONFIGS)),
)
def test_job_in_a_pack_computes_what_it_computes_alone(members: list[tuple[str, int, int, int]], training: bool, architecture: str) -> None:
    # DeBERTa drops entries of its relative positions, which all rows share: with dropout on, its packed jobs are not the jobs alone.
    training = training and architecture != "deberta-v2"
    encoder = tiny_encoder(architecture)
    encoder.pads = True  # alone, too, as on a GPU
    branches, batches, blocks = [], [], []
    for kind, rows, length, seed in members:
        torch.manual_seed(seed)
        branches.append(BRANCHES[kind]().train(training))
        batches.append(token_batch(rows, length, seed))
        blocks.append(RowBlock(rows, length, seed))
    weights = [random(block.rows, HIDDEN, seed=block.seed) for block in blocks]

    def learned_gradients(branch: Branch) -> list[Tensor]:
        gradients = [parameter.grad for parameter in branch.learned().values() if parameter.grad is not None]
        branch.zero_grad(set_to_none=True)
        assert gradients
        return gradients

    encoder.train(training)
    try:
        alone = []
        for branch, batch, block, weight in zip(branches, batches, blocks, weights, strict=True):
            states = encoder(batch, [branch], [block])
            (states * weight).sum().backward()
            alone.append([states.detach(), *learned_gradients(branch)])
        parts = encoder(merge_batches(batches, pad_token_id=1), branches, blocks).split([block.rows for block in blocks])
        torch.stack([(states * weight).sum() for states, weight in zip(parts, weights, strict=True)]).sum().backward()
        for branch, states, expected in zip(branches, parts, alone, strict=True):
            assert_close([states.detach(), *learned_gradients(branch)], expected)
    finally:
        encoder.eval()
        encoder.release()


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "distilbert", "roberta"])
def test_pass_of_equal_seed_drops_the_same_entries_and_of_another_seed_others(architecture: str) -> None:
    encoder, inputs = tiny_encoder(architecture), token_batch()
    branch = ScalingBranch(STACKS, OmegaConfig()).train()
    encoder.train()
    first, again, other = (encoder(inputs, [branch], [RowBlock(3, 8, seed)]) for seed in (5, 5, 6))
    encoder.eval()
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_initial_omega_is_normal_around_two_divided_by_the_number_of_sources() -> None:
    omega = Omega(OmegaConfig(), layers=12, sources=8, hidden=768, generator=torch.Generator().manual_seed(0)).omega.detach()
    assert omega.shape == (12, 8, 768)
    assert float(omega.mean()) == pytest.approx(2 / 8, abs=1e-5)
    assert float(omega.std()) == pytest.approx(0.001, rel=0.01)
    deviations = (omega.flatten() - 0.25) / 0.001
    for limit, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert float((deviations.abs() < limit).float().mean()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("constraint", ["mean", "softmax"])
def test_constrained_omegas_sum_to_one_over_sources(constraint: str) -> None:
    omega = Omega(OmegaConfig(constraint=constraint, dropout=0.0), layers=3, sources=5, hidden=7)  # type: ignore[arg-type]
    with torch.no_grad():
        omega.omega.add_(0.2 * torch.rand(omega.omega.shape))
    torch.testing.assert_close(omega().sum(dim=1), torch.ones(3, 7))
    plain = omega.omega.detach()
    expected = plain / plain.sum(1, keepdim=True) if constraint == "mean" else plain.exp() / plain.exp().sum(1, keepdim=True)
    torch.testing.assert_close(omega().detach(), expected)


@pytest.mark.parametrize("constraint", ["mean", "softmax"])
@pytest.mark.parametrize("per_layer", [True, False])
def test_entries_are_dropped_before_the_constraint_is_taken_over_the_rest(constraint: str, per_layer: bool) -> None:
    omega = Omega(OmegaConfig(constraint=constraint, dropout=0.4, per_layer=per_layer), layers=3, sources=5, hidden=70)  # type: ignore[arg-type]
    with torch.no_grad():
        omega.omega.add_(0.2 * torch.rand(omega.omega.shape))
    expanded = omega.omega.expand(3, -1, -1)
    left = expanded * kept(expanded.shape, expanded, 0.4, 7, OMEGA_DROPOUT) / (1 - 0.4)
    assert bool((left == 0).all(dim=1).any()), "no column lost all its sources: the rule for it is not tested"
    if constraint == "softmax":
        expected = left.exp() / left.exp().sum(1, keepdim=True)
    else:
        expected = (left / left.sum(1, keepdim=True)).nan_to_num(0.0)
    torch.testing.assert_close(omega(seed=7), expected)
    weights = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((omega(seed=7) * weights).sum(), omega.omega)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any())


def test_shared_omega_is_one_parameter_with_its_own_dropout_in_every_layer() -> None:
    omega = Omega(OmegaConfig(per_layer=False, dropout=0.5), layers=4, sources=3, hidden=50)
    assert omega.omega.shape == (1, 3, 50)
    drawn = omega(seed=1)
    assert drawn.shape == (4, 3, 50)
    assert not torch.equal(drawn[0] == 0, drawn[1] == 0)
    assert float((drawn == 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    kept = drawn[drawn != 0]
    assert float(kept.detach().mean()) == pytest.approx(2 * 2 / 3, rel=0.01)
    omega.eval()
    assert torch.equal(omega(), omega.omega.expand(4, -1, -1))


def test_fixed_omega_learns_nothing() -> None:
    branch = ScalingBranch(STACKS, OmegaConfig(per_dimension=False, per_layer=False, dropout=0.0, fixed=(0.1, 0.0, 0.9)))
    assert branch.learned() == {}
    assert torch.equal(branch.coefficients(1), torch.tensor([[0.1], [0.0], [0.9]]))


def test_stack_keeps_no_activation_but_the_bottleneck_for_the_backward_pass() -> None:
    (stack,) = random_stacks(1, 8, 64, 4)
    states, omega = torch.randn(16, 32, 64, requires_grad=True), torch.randn(8, 64, requires_grad=True)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        partial(stack.weighted_sum, omega=omega)(stack.bottleneck(states))
    weights = sum(buffer.nbytes for buffer in stack.buffers()) + stack.up_weight.nbytes + omega.nbytes
    assert sum(saved.values()) <= 16 * 32 * 8 * 4 * 4 + weights


def test_source_stack_takes_sources_in_order() -> None:
    (stack,) = random_stacks(1, 2, 4, 3)
    assert isinstance(stack, SourceStack)
    states = torch.randn(1, 1, 4)
    only_first = stack.weighted_sum(stack.bottleneck(states), torch.tensor([[1.0], [0.0]]))
    expected = stack.up_weight[:, 0] @ torch.relu(stack.down_weight[:3] @ states[0, 0] + stack.down_bias[:3]) + stack.up_bias[0]
    torch.testing.assert_close(only_first[0, 0], expected)


def test_branch_without_a_pass_draws_for_each_call() -> None:
    branch, states = ScalingBranch(random_stacks(2, 3, 8, 4), OmegaConfig(dropout=0.5)), torch.randn(2, 5, 8)
    outputs = [branch.added(0, states) for _ in range(2)]
    assert not torch.equal(*outputs)
    for output in outputs:
        output.sum().backward()
    branch.eval()
    assert torch.equal(branch.added(0, states), branch.stacks[0].weighted_sum(branch.stacks[0].bottleneck(states), branch.omega()[0]))
