"""Every variant on every architecture against the adapters library's own way of computing it."""

from typing import Any

import pytest
import torch
from adapters.composition import Fuse
from adapters.configuration import AdapterFusionConfig, BnConfig
from adapters.methods.bottleneck import BottleneckLayer
from torch import Tensor, nn

from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.row_layout import GRAIN
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.build import build_branch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.parameter_counts import head, method_counts
from scalearn.methods.registry import METHODS
from scalearn.methods.scaling import ScalingBranch
from scalearn.methods.settings import resolve_settings
from scalearn.model.model import fill_bottleneck
from scalearn.model.transfer_files import TransferSpec, job_config
from tests.scalearn.helpers.tiny import (
    CONFIGS,
    LAYERS,
    add_random_adapter,
    encoder_of,
    library_model,
    save_adapters,
    shape,
    states_of,
    token_batch,
)

NAMES = ("one", "two", "three")
VARIANTS = ("scalearn", "scalearn_uniform", "scalearn_pp", "scalearn_uniform_pp", "scalearn_mean", "scalearn_softmax", "scalearn_fixed")


class LibraryScaling(nn.Module):
    """The transfer layer in the slot where the library has its fusion."""

    def __init__(self, omega: Tensor) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, query: Tensor, key: Tensor, value: Tensor, residual: Tensor, output_attentions: bool = False) -> Tensor:
        return (self.omega * value).sum(dim=2) + residual


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, SourceAdapters]:
    """A library model with three adapters, an encoder of the same weights, and the adapters as saved and loaded."""
    model = library_model(request.param)
    for name in NAMES:
        add_random_adapter(model, name)
    places = save_adapters(model, tmp_path_factory.mktemp("adapters"), NAMES)
    encoder = encoder_of(model)
    return model, encoder, load_source_adapters(encoder, places)


def library_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Of the first token, which is all that a head reads, from a pass over all tokens in all layers."""
    states: Tensor = model.base_model(**inputs)[0]
    assert states.shape[1] == inputs["input_ids"].shape[1]
    return states[:, 0]


def branch_of(method: str, encoder: Any, sources: SourceAdapters) -> Any:
    settings = resolve_settings(METHODS[method], {"omega": (0.2, -0.4, 1.0)} if method == "scalearn_fixed" else {}, len(NAMES))
    spec = TransferSpec(method, settings, sources.names, "tiny", "", encoder.hidden_size, ())
    return build_branch(job_config(spec), encoder, sources).eval()


def test_single_adapter_computes_as_in_the_library(pair: tuple[Any, Any, SourceAdapters]) -> None:
    model, encoder, sources = pair
    model.set_active_adapters("two")
    branch = BottleneckBranch(BnConfig.from_dict(dict(sources.config)), encoder.sites, encoder.hidden_size).eval()
    width = sources.width
    fill_bottleneck(
        branch,
        [
            BottleneckWeights(
                stack.down_weight[width : 2 * width], stack.down_bias[width : 2 * width], stack.up_weight[:, 1], stack.up_bias[1]
            )
            for stack in sources.stacks
        ],
    )
    inputs = token_batch()
    torch.testing.assert_close(states_of(encoder, branch, inputs), library_states(model, inputs), atol=1e-5, rtol=0)


def test_last_site_gets_the_first_token_alone(pair: tuple[Any, Any, SourceAdapters]) -> None:
    _, encoder, sources = pair
    lengths = []

    class Watched(ScalingBranch):
        def added(self, site: int, hidden_states: Tensor) -> Tensor:
            lengths.append(hidden_states.shape[1])
            return super().added(site, hidden_states)

    inputs = token_batch()
    tokens, rows = -(-int(inputs["attention_mask"].sum()) // GRAIN) * GRAIN, inputs["input_ids"].shape[0]
    states_of(encoder, Watched(sources.stacks, OmegaConfig()), inputs)
    unpadded, lengths[:] = list(lengths), []
    encoder.pads = True
    states_of(encoder, Watched(sources.stacks, OmegaConfig()), inputs)
    assert lengths == [8] * (LAYERS - 1) + [1]
    assert unpadded == (lengths if encoder.config.model_type == "deberta-v2" else [tokens] * (LAYERS - 1) + [rows])


@pytest.mark.parametrize("method", VARIANTS)
def test_scaling_variant_computes_as_the_librarys_fuse_does_with_the_same_arithmetic(
    method: str, pair: tuple[Any, Any, SourceAdapters]
) -> None:
    model, encoder, sources = pair
    branch, inputs = branch_of(method, encoder, sources), token_batch()
    omega = (branch.omega.omega.detach() + 0.3 * torch.randn(branch.omega.omega.shape)).requires_grad_(branch.omega.omega.requires_grad)
    with torch.no_grad():
        branch.omega.omega.copy_(omega)
    constrained = {"scalearn_mean": omega / omega.sum(1, keepdim=True), "scalearn_softmax": omega.softmax(1)}.get(method, omega)
    group = Fuse(*NAMES, name="scaling")
    model.add_adapter_fusion(list(NAMES), config=AdapterFusionConfig.load("dynamic", key=False, query=False, value=False), name="scaling")
    layers: list[BottleneckLayer] = []
    model.apply_to_adapter_layers(lambda _, layer: layers.append(layer) if isinstance(layer, BottleneckLayer) else None)
    layers = [layer for layer in layers if "scaling" in layer.adapter_fusion_layer]
    assert len(layers) == LAYERS == encoder.sites
    for index, layer in enumerate(layers):
        layer.adapter_fusion_layer["scaling"] = LibraryScaling(constrained[index if branch.omega.config.per_layer else 0])
    model.set_active_adapters(group)
    try:
        expected, weights = library_states(model, inputs), torch.randn(3, encoder.hidden_size)
        computed = states_of(encoder, branch, inputs)
        torch.testing.assert_close(computed, expected, atol=2e-5, rtol=1e-5)
        if omega.requires_grad:
            (expected * weights).sum().backward()
            (computed * weights).sum().backward()
            gradient = omega.grad
            assert gradient is not None
            torch.testing.assert_close(branch.omega.omega.grad, gradient, atol=float(1e-4 * gradient.abs().max()), rtol=0)
    finally:
        model.delete_adapter_fusion("scaling")


def test_adapterfusion_computes_as_in_the_library(pair: tuple[Any, Any, SourceAdapters]) -> None:
    model, encoder, sources = pair
    inputs = token_batch()
    model.add_adapter_fusion(list(NAMES), config="dynamic", name="attention")
    model.train_adapter_fusion(Fuse(*NAMES, name="attention"))
    branch = branch_of("adapterfusion", encoder, sources)
    assert isinstance(branch, FusionBranch)
    layers: list[Any] = []
    model.apply_to_adapter_layers(
        lambda _, layer: (
            layers.append(layer.adapter_fusion_layer["attention"]) if "attention" in getattr(layer, "adapter_fusion_layer", {}) else None
        )
    )
    assert len(layers) == len(branch.sites)
    try:
        for theirs, ours in zip(layers, branch.sites, strict=True):
            with torch.no_grad():
                for parameter in theirs.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            ours.load_state_dict(theirs.state_dict())
        model.eval()
        expected, weights = library_states(model, inputs), torch.randn(3, encoder.hidden_size)
        computed = states_of(encoder, branch, inputs)
        torch.testing.assert_close(computed, expected, atol=2e-5, rtol=1e-5)
        (expected * weights).sum().backward()
        (computed * weights).sum().backward()
        largest = max(float(parameter.grad.abs().max()) for theirs in layers for parameter in theirs.parameters())
        for theirs, ours in zip(layers, branch.sites, strict=True):
            for own, given in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(own.grad, given.grad, atol=1e-4 * largest, rtol=0)
    finally:
        model.delete_adapter_fusion("attention")


@pytest.mark.parametrize("method", [*VARIANTS, "adapterfusion", "scalearn_gated", "sources_unfrozen"])
def test_built_method_holds_the_parameters_that_its_formula_counts(method: str, pair: tuple[Any, Any, SourceAdapters]) -> None:
    _, encoder, sources = pair
    branch = branch_of(method, encoder, sources)
    counts = method_counts(METHODS[method], shape(encoder), sources=len(NAMES), labels=3, reduction_factor=4)
    own_head = Head(HeadConfig("classification", 3), encoder.hidden_size)
    assert counts == {
        "transfer": sum(parameter.numel() for parameter in branch.learned().values()),
        "source": sum(buffer.numel() for stack in sources.stacks for buffer in stack.buffers()),
        "head": sum(parameter.numel() for parameter in own_head.parameters()),
    }
    assert counts["head"] == head(shape(encoder), 3)


def test_frozen_backbone_and_sources_get_no_gradient(pair: tuple[Any, Any, SourceAdapters]) -> None:
    _, encoder, sources = pair
    branch = ScalingBranch(sources.stacks, OmegaConfig())
    states_of(encoder, branch, token_batch()).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not any(buffer.requires_grad for stack in sources.stacks for buffer in stack.buffers())
