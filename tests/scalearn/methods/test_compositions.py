"""Compositions of frozen sources against PEFT's and the adapters library's own functions, and what their jobs leave."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters import AutoAdapterModel
from peft.utils import merge_utils
from torch import Tensor

import scalearn
from scalearn.backbone.encoder import Encoder
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import bottleneck_weights
from scalearn.methods import merging
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.build import build_branch
from scalearn.methods.lora import LoraBranch
from scalearn.methods.registry import get_method
from scalearn.methods.settings import resolve_settings
from scalearn.model.export import fold
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import plain_model, save_lora
from tests.scalearn.helpers.packs import result
from tests.scalearn.helpers.small import data, job, run

NAMES = ("a", "b", "c")
MERGED = ("task_arithmetic", "ties", "dare_ties")
TASK = (data("domains/apple"),)
PARTS = ("down_weight", "down_bias", "up_weight", "up_bias")


@pytest.fixture(scope="module")
def library() -> Any:
    model = tiny.library_model("bert")
    for name in NAMES:
        tiny.add_random_adapter(model, name)
    return model


@pytest.fixture(scope="module")
def adapters(library: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, SourceAdapters]:
    places = tiny.save_adapters(library, tmp_path_factory.mktemp("adapters"), NAMES)
    encoder = tiny.encoder_of(tiny.library_model("bert"))
    return encoder, load_source_adapters(encoder, places)


@pytest.fixture(scope="module")
def lora_places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Mapping[str, Path]]:
    root, encoder = tmp_path_factory.mktemp("loras"), tiny.encoder_of(tiny.library_model("bert"))
    for seed, name in enumerate(NAMES):
        save_lora(encoder, root / name, rank=4, seed=seed, scale=0.5)
    return encoder, {name: root / name for name in NAMES}


@pytest.fixture(scope="module")
def loras(lora_places: tuple[Encoder, Mapping[str, Path]]) -> tuple[Encoder, SourceAdapters]:
    encoder, places = lora_places
    return encoder, load_source_adapters(encoder, places)


def branch_of(method: str, given: tuple[Encoder, SourceAdapters], seed: int = 0, **settings: Any) -> Any:
    encoder, sources = given
    resolved = resolve_settings(get_method(method), settings, len(sources.names))
    task, optimisation = (DataConfig("glue/rte", ""),), OptimisationConfig(1e-3)
    config = JobConfig("glue", "transfer", method, task, "tiny", "", optimisation, seed, sources.names, resolved)
    return build_branch(config, encoder, sources).eval()


def states_of(encoder: Encoder, branch: Any) -> Tensor:
    return encoder(batch(), [branch], [RowBlock(*batch()["input_ids"].shape, 0)]).detach()


@pytest.mark.parametrize("kind", ["adapters", "loras"])
def test_source_average_is_the_mean_of_the_outputs(kind: str, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(kind)
    branch, sources = branch_of("source_average", given), given[1]
    for site, stack in enumerate(sources.stacks):
        states = torch.randn(2, 5, 32)
        total = torch.zeros(2, 5, 32)
        for source in range(3):
            down = states @ stack.down_weight.chunk(3)[source].T + stack.down_bias.chunk(3)[source]
            inner = down.relu() if kind == "adapters" else down
            total += (inner @ stack.up_weight[:, source].T + stack.up_bias[source]) / 3
        torch.testing.assert_close(branch.added(site, states), total, atol=1e-5, rtol=1e-5)
    assert branch.learned() == {}


def test_best_source_is_one_source_and_refuses_several(adapters: tuple[Encoder, SourceAdapters], library: Any, tmp_path: Path) -> None:
    encoder, _ = adapters
    places = tiny.save_adapters(library, tmp_path, NAMES)
    one = load_source_adapters(encoder, {"b": places["b"]})
    branch, alone = branch_of("best_source", (encoder, one)), branch_of("scalearn_fixed", adapters, omega=(0.0, 1.0, 0.0))
    torch.testing.assert_close(states_of(encoder, branch), states_of(encoder, alone), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="Method 'best_source' has one source in each job, not a, b, c: make one job per source"):
        branch_of("best_source", adapters)


@pytest.mark.parametrize("density", [0.2, 0.5])
@pytest.mark.parametrize("shape", [(3, 8, 5), (3, 7)])
def test_merges_of_tensors_are_pefts(density: float, shape: tuple[int, ...]) -> None:
    tensors = torch.randn(shape)
    parts, ones = list(tensors), torch.ones(shape[0])
    torch.testing.assert_close(merging.task_arithmetic(tensors), merge_utils.task_arithmetic(parts, ones))
    torch.testing.assert_close(merging.ties(tensors, density), merge_utils.ties(parts, ones, density))
    torch.manual_seed(3)
    ours = merging.dare_ties(tensors, density)
    torch.manual_seed(3)
    # This version of PEFT computes the division by the density and drops the result, so it is given as a weight.
    kept = merge_utils.random_pruning(torch.ones(10_000), density, rescale=True).max()
    torch.manual_seed(3)
    theirs = merge_utils.dare_ties(parts, ones / density if kept == 1.0 else ones, density)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("method", "combination", "settings"), [("task_arithmetic", "linear", {"weight": 0.3}), ("ties", "ties", {})])
def test_merged_loras_are_those_of_pefts_weighted_adapter(
    method: str, combination: str, settings: dict[str, Any], lora_places: tuple[Encoder, Mapping[str, Path]]
) -> None:
    encoder, places = lora_places
    branch = branch_of(method, (encoder, load_source_adapters(encoder, places)), **settings)
    first, *others = NAMES
    model: Any = peft.PeftModel.from_pretrained(plain_model(encoder), str(places[first]), adapter_name=first)
    for name in others:
        model.load_adapter(str(places[name]), adapter_name=name)
    density = None if method == "task_arithmetic" else 0.2
    model.add_weighted_adapter(list(NAMES), [settings.get("weight", 1.0)] * 3, "merged", combination_type=combination, density=density)
    model.set_adapter("merged")
    with torch.no_grad():
        theirs = model.eval()(**batch())[0][:, 0]
    ours = states_of(encoder, branch)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        plain = plain_model(encoder)(**batch())[0][:, 0]
    assert (ours - plain).abs().max() > 0.01


def test_task_arithmetic_on_adapters_is_the_librarys_linear_combination(adapters: tuple[Encoder, SourceAdapters], library: Any) -> None:
    branch = branch_of("task_arithmetic", adapters, weight=1.0)
    library.average_adapter("sum", list(NAMES), weights=[1.0] * 3, normalize_weights=False, combine_strategy="linear")
    for site, layer in enumerate(library.base_model.encoder.layer):
        theirs, ours = bottleneck_weights(layer.output.adapters["sum"]), branch.weights()[site]
        for part in PARTS:
            torch.testing.assert_close(getattr(ours, part), getattr(theirs, part))


@pytest.mark.parametrize("kind", ["adapters", "loras"])
def test_one_source_of_a_weight_becomes_weight_times_itself(kind: str, request: pytest.FixtureRequest) -> None:
    _, sources = request.getfixturevalue(kind)
    states = torch.randn(4, 32)
    for stack in sources.stacks:
        alone = type(stack)([merging.merged(stack, lambda tensors, _: tensors[1], 1.0, 1.0)], stack.activation)
        scaled = type(stack)([merging.merged(stack, lambda tensors, _: tensors[1], 1.0, 0.4)], stack.activation)
        one = torch.ones(1, 1)
        expected = 0.4 * alone.weighted_sum(alone.bottleneck(states), one)
        torch.testing.assert_close(scaled.weighted_sum(scaled.bottleneck(states), one), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["adapters", "loras"])
def test_what_dare_drops_depends_on_the_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(kind)
    torch.manual_seed(1)
    first = branch_of("dare_ties", given, seed=5).state_dict()
    torch.rand(7)
    again, other = (branch_of("dare_ties", given, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert all(
        torch.equal(tensor, branch_of("ties", given, seed=6).state_dict()[name])
        for name, tensor in branch_of("ties", given, seed=5).state_dict().items()
    )


@pytest.mark.parametrize("method", [*MERGED, "lorahub"])
def test_unlike_loras_are_refused_in_one_sentence(method: str, lora_places: tuple[Encoder, Mapping[str, Path]], tmp_path: Path) -> None:
    encoder, places = lora_places
    save_lora(encoder, tmp_path, rank=2)
    sources = load_source_adapters(encoder, {**places, "small": tmp_path})
    with pytest.raises(
        UserError, match=f"Method '{method}' merges LoRAs of one rank and alpha at the same modules, but a, b, c, small differ"
    ):
        branch_of(method, (encoder, sources))


@pytest.mark.parametrize("method", [*MERGED, "lorahub"])
def test_loras_of_alpha_zero_add_nothing(method: str, lora_places: tuple[Encoder, Mapping[str, Path]], tmp_path: Path) -> None:
    encoder, _ = lora_places
    save_lora(encoder, tmp_path, scale=0.0)
    given = encoder, load_source_adapters(encoder, {"one": tmp_path, "two": tmp_path})
    torch.testing.assert_close(states_of(encoder, branch_of(method, given)), encoder(batch(), [], []), atol=1e-6, rtol=0)


@pytest.fixture(scope="module", params=["adapter", "lora"])
def trained(request: pytest.FixtureRequest, backbone: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    root = tmp_path_factory.mktemp("sources")
    for name in ("apple", "coachella"):
        assert run(job(request.param, (data(f"domains/{name}"),), backbone, learning_rate=3e-2, epochs=2), root / name).error is None
    return request.param, {name: root / name for name in ("apple", "coachella")}


def transfer(
    method: str, backbone: str, kind: str, seed: int = 0, sources: tuple[str, ...] = ("apple", "coachella"), **optimisation: Any
) -> Any:
    config = job(method, TASK, backbone, {}, seed, sources, **{"learning_rate": 2e-2, "epochs": 2, "patience": None, **optimisation})
    return replace(config, source_method=kind)


@pytest.mark.parametrize("method", ["source_average", "best_source", *MERGED, "lorahub"])
def test_finished_job_learned_its_head_alone_loads_and_scores_as_recorded(
    method: str, backbone: str, trained: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    kind, places = trained
    names = ("coachella",) if method == "best_source" else tuple(places)
    config = transfer(method, backbone, kind, sources=names)
    outcome = run(config, tmp_path, {name: places[name] for name in names})
    assert outcome.error is None, outcome.error
    left = result(tmp_path)
    assert left["parameters"]["transfer"] == (2 if method == "lorahub" else 0)
    loaded_backbone = scalearn.load_backbone(backbone)
    sources = {name: places[name] for name in names}
    model = scalearn.load_model(tmp_path, loaded_backbone, sources)
    assert model.evaluate(TASK[0]) == pytest.approx(left["scores"]["domains/apple"]["test"], rel=1e-5)
    if method in MERGED:
        built = build_branch(config, loaded_backbone.encoder, load_source_adapters(loaded_backbone.encoder, sources))
        assert isinstance(model.branch, BottleneckBranch | LoraBranch)
        same = zip(built.parameters(), model.branch.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in same), "the merged module is as it was built"
    if method in ("source_average", "best_source"):
        folded = fold(model).model
        assert isinstance(folded.branch, LoraBranch if kind == "lora" else BottleneckBranch)
        assert folded.evaluate(TASK[0]) == pytest.approx(left["scores"]["domains/apple"]["test"], rel=1e-4)
    else:
        assert_library_alone_computes_the_same(kind, model, tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["adapters", "loras"])
def test_unfrozen_sources_begin_as_their_sum_at_two_over_their_number_and_all_learn(kind: str, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(kind)
    branch, fixed = branch_of("sources_unfrozen", given), branch_of("scalearn_fixed", given, omega=(2 / 3,) * 3)
    torch.testing.assert_close(states_of(given[0], branch), states_of(given[0], fixed), atol=1e-5, rtol=1e-5)
    (given[0](batch(), [branch], [RowBlock(*batch()["input_ids"].shape, 0)]) * torch.randn(1, 32)).sum().backward()
    learned = branch.learned()
    assert sum(parameter.numel() for parameter in learned.values()) == sum(parameter.numel() for parameter in branch.parameters())
    unlearned = [name for name, parameter in learned.items() if parameter.grad is None or not parameter.grad.any()]
    assert not unlearned


def test_unfrozen_loras_may_be_of_unlike_rank(lora_places: tuple[Encoder, Mapping[str, Path]], tmp_path: Path) -> None:
    encoder, places = lora_places
    save_lora(encoder, tmp_path, rank=2)
    given = encoder, load_source_adapters(encoder, {"a": places["a"], "small": tmp_path})
    branch = branch_of("sources_unfrozen", given)
    assert branch.shape.rank == 4 + 2
    expected = states_of(encoder, branch_of("scalearn_fixed", given, omega=(1.0, 1.0)))
    torch.testing.assert_close(states_of(encoder, branch), expected, atol=1e-5, rtol=1e-5)


def test_job_of_unfrozen_sources_leaves_one_ordinary_module(backbone: str, trained: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    kind, places = trained
    outcome = run(transfer("sources_unfrozen", backbone, kind), tmp_path, places)
    assert outcome.error is None, outcome.error
    left, model = result(tmp_path), scalearn.load_model(tmp_path, scalearn.load_backbone(backbone), places)
    assert left["parameters"]["transfer"] == sum(parameter.numel() for parameter in model.branch.parameters())
    assert model.evaluate(TASK[0]) == pytest.approx(left["scores"]["domains/apple"]["test"], rel=1e-5)
    assert_library_alone_computes_the_same(kind, model, tmp_path / "adapter")
    with pytest.raises(UserError, match="left an ordinary adapter already"):
        fold(model)


def assert_library_alone_computes_the_same(kind: str, model: Any, directory: Path) -> None:
    inputs = model.tokenise(["What the other library computes.", "The same."])
    plain: Any = plain_model(model.encoder) if kind == "lora" else AutoAdapterModel.from_pretrained(model.spec.backbone)
    if kind == "lora":
        plain = peft.PeftModel.from_pretrained(plain, str(directory))
    else:
        plain.set_active_adapters(plain.load_adapter(str(directory), with_head=False, use_safetensors=True))
    with torch.no_grad():
        theirs = (plain if kind == "lora" else plain.base_model).eval()(**inputs)[0][:, 0]
        ours = model.encoder(inputs, [model.branch], [RowBlock(*inputs["input_ids"].shape, 0)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
