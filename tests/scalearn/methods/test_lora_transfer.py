"""Transfer over LoRAs: each variant against a loop of a few lines, packs against each job alone, soups, and what is refused."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scalearn
from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import kind_of
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.build import build_branch
from scalearn.methods.lora import LoraBranch
from scalearn.methods.parameter_counts import method_counts
from scalearn.methods.registry import METHODS, get_method
from scalearn.methods.scaling import ScalingBranch
from scalearn.methods.settings import resolve_settings
from scalearn.methods.soup import LoraSoupBranch
from scalearn.training.memory import footprint
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import plain_model, save_lora
from tests.scalearn.helpers.packs import result, train_pack, weights
from tests.scalearn.helpers.small import data, job, run

VARIANTS = {
    "scalearn": {},
    "scalearn_uniform": {},
    "scalearn_pp": {},
    "scalearn_uniform_pp": {},
    "scalearn_mean": {},
    "scalearn_softmax": {},
    "scalearn_fixed": {"omega": (0.3, -0.5, 0.9)},
}
TASK = (data("domains/apple"),)


class Given:
    """Sources of unlike rank, modules and scale, and the branches that they were saved from."""

    def __init__(self, encoder: Encoder, root: Path, modules: tuple[str, str] = ("query", "value")) -> None:
        self.branches: dict[str, LoraBranch] = {
            "first": save_lora(encoder, root / "first", modules, rank=3, seed=1),
            "second": save_lora(encoder, root / "second", modules, rank=5, seed=2, scale=0.5),
            "third": save_lora(
                encoder, root / "third", (modules[1], "key" if modules[1] == "value" else "query"), rank=2, seed=3, scale=1.5
            ),
        }
        self.sources = load_source_adapters(encoder, {name: root / name for name in self.branches})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny.encoder_of(tiny.library_model("bert"))


@pytest.fixture(scope="module")
def given(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(encoder, tmp_path_factory.mktemp("loras"))


def branch_of(method: str, encoder: Encoder, sources: SourceAdapters, settings: Mapping[str, Any]) -> Any:
    entry = get_method(method)
    resolved = resolve_settings(entry, settings, len(sources.names))
    config = JobConfig(
        "glue", "transfer", method, (DataConfig("glue/rte", ""),), "tiny", "", OptimisationConfig(1e-3), 0, sources.names, resolved
    )
    branch = build_branch(config, encoder, sources).eval()
    if isinstance(branch, ScalingBranch) and method != "scalearn_fixed":
        nn.init.normal_(branch.omega.omega, std=0.7, generator=torch.Generator().manual_seed(5))
    return branch


def loop_states(encoder: Encoder, given: Given, omega_at: Callable[[str, int], Tensor | float], inputs: dict[str, Tensor]) -> Tensor:
    """W x + sum_t omega_t * s_t B_t A_t x at each module, source by source, in transformers' own model."""
    model = plain_model(encoder)

    def adding(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, given_inputs: tuple[Tensor], output: Tensor) -> Tensor:
            for number, source in enumerate(given.branches.values()):
                if name in source.shape.modules:
                    site = list(source.shape.modules).index(name)
                    output = output + omega_at(name, number) * source.shape.scale * (
                        given_inputs[0] @ source.down[site].T @ source.up[site].T
                    )
            return output

        return hook

    for name in given.sources.modules or ():
        model.get_submodule(name).register_forward_hook(adding(name))
    with torch.no_grad():
        states: Tensor = model(**inputs)[0][:, 0]
    return states


@pytest.mark.parametrize("pads", [False, True], ids=["in a row", "padded"])
@pytest.mark.parametrize("method", VARIANTS)
def test_variant_is_its_equation(method: str, pads: bool, encoder: Encoder, given: Given) -> None:
    branch = branch_of(method, encoder, given.sources, VARIANTS[method])
    modules = given.sources.modules
    assert modules is not None
    names = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "key", "value")]
    assert list(modules) == names
    omega = branch.omega.omega.detach()
    shared, uniform = "pp" in method or method == "scalearn_fixed", "uniform" in method or method == "scalearn_fixed"
    assert omega.shape == (3 if shared else 6, 3, 1 if uniform else 32)
    if method == "scalearn_mean":
        omega = omega / omega.sum(1, keepdim=True)
    if method == "scalearn_softmax":
        omega = omega.softmax(1)
    kinds = list(dict.fromkeys(map(kind_of, modules)))

    def omega_at(name: str, source: int) -> Tensor:
        return omega[kinds.index(kind_of(name)) if shared else modules.index(name), source]

    encoder.pads = pads
    states = encoder(batch(), [branch], [RowBlock(*batch()["input_ids"].shape, 0)]).detach()
    encoder.pads = False
    torch.testing.assert_close(states, loop_states(encoder, given, omega_at, batch()), atol=1e-5, rtol=1e-5)
    if method == "scalearn_fixed":
        assert omega[1, :, 0].tolist() == pytest.approx([0.3, -0.5, 0.9])


@pytest.mark.parametrize("method", VARIANTS)
def test_counts_are_those_of_the_model(method: str, encoder: Encoder, tmp_path: Path) -> None:
    for name in "abc":
        save_lora(encoder, tmp_path / name, rank=4)
    sources = load_source_adapters(encoder, {name: tmp_path / name for name in "abc"})
    branch = branch_of(method, encoder, sources, VARIANTS[method])
    counted = method_counts(get_method(method), tiny.shape(encoder), sources=3, lora_rank=4)
    assert counted is not None
    assert counted["transfer"] == sum(parameter.numel() for parameter in branch.learned().values())
    assert counted["source"] == sources.parameters == 3 * 2 * 2 * 4 * (32 + 32)


def test_sources_are_counted_as_their_files_hold_them(given: Given) -> None:
    own = sum(weight.numel() for branch in given.branches.values() for weight in branch.parameters())
    assert given.sources.parameters == own


def test_padding_with_zeros_adds_exactly_nothing(encoder: Encoder, given: Given, tmp_path: Path) -> None:
    alone = load_source_adapters(encoder, {"first": save_to(encoder, tmp_path / "first")})
    states = torch.randn(2, 5, 32)
    for module, stack in zip(alone.modules or (), alone.stacks, strict=True):
        wide = given.sources.stacks[(given.sources.modules or ()).index(module)]
        mine = stack.weighted_sum(stack.bottleneck(states), torch.ones(1, 1))
        theirs = wide.weighted_sum(wide.bottleneck(states), torch.tensor([[1.0], [0.0], [0.0]]))
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
        assert not wide.down_weight[3:5].any()
        assert not wide.up_weight[:, 0, 3:].any()


def save_to(encoder: Encoder, directory: Path) -> Path:
    save_lora(encoder, directory, rank=3, seed=1)
    return directory


@pytest.mark.parametrize("method", ["scalearn", "scalearn_pp", "scalearn_mean", "scalearn_softmax", "scalearn_uniform"])
def test_vectors_over_modules_of_unlike_sizes_are_their_equation(method: str, encoder: Encoder, tmp_path: Path) -> None:
    given = Given(encoder, tmp_path, ("query", "intermediate.dense"))
    branch, modules = branch_of(method, encoder, given.sources, {}), list(given.sources.modules or ())
    kinds = list(dict.fromkeys(map(kind_of, modules)))
    own = kinds if method == "scalearn_pp" else modules

    def size_at(name: str) -> int:
        return 1 if method == "scalearn_uniform" else 48 if "intermediate" in name else 32

    sizes = [size_at(name) for name in own]
    parts = branch.omega.omega.detach()
    parts = [part.flatten(0, 1) for part in (parts.split(1) if method == "scalearn_uniform" else parts.split(sizes, dim=-1))]
    assert [part.shape for part in parts] == [(3, size) for size in sizes]
    if method == "scalearn_mean":
        parts = [part / part.sum(0) for part in parts]
    if method == "scalearn_softmax":
        parts = [part.softmax(0) for part in parts]

    def omega_at(name: str, source: int) -> Tensor:
        return parts[own.index(kind_of(name) if method == "scalearn_pp" else name)][source]

    states = encoder(batch(), [branch], [RowBlock(*batch()["input_ids"].shape, 0)]).detach()
    torch.testing.assert_close(states, loop_states(encoder, given, omega_at, batch()), atol=1e-5, rtol=1e-5)
    drawn = branch.train().omega(seed=3)
    assert [tuple(each.shape) for each in drawn] == [(3, size_at(name)) for name in modules]


def test_fusion_over_loras_is_refused_in_one_sentence(encoder: Encoder, given: Given) -> None:
    with pytest.raises(UserError) as error:
        branch_of("adapterfusion", encoder, given.sources, {})
    able = "adaptersoup, source_average, best_source, task_arithmetic, ties, dare_ties, lorahub, scalearn, scalearn_uniform, scalearn_pp, "
    able += "scalearn_uniform_pp, scalearn_mean, scalearn_softmax, scalearn_fixed, scalearn_gated, sources_unfrozen"
    assert str(error.value) == f"Method 'adapterfusion' combines bottleneck adapters, not LoRAs: take one of {able}."
    assert {key for key, method in METHODS.items() if method.takes_lora} == set(able.split(", "))


def test_soup_is_the_average_of_loras(encoder: Encoder, tmp_path: Path) -> None:
    saved = {name: save_lora(encoder, tmp_path / name, rank=4, seed=seed) for seed, name in enumerate("abc")}
    sources = load_source_adapters(encoder, {name: tmp_path / name for name in saved})
    branch = LoraSoupBranch(sources, {"a": 0.25, "c": 0.75})
    for site in range(len(branch.down)):
        a, c = saved["a"], saved["c"]
        torch.testing.assert_close(branch.down[site], 0.25 * a.down[site] + 0.75 * c.down[site])
        torch.testing.assert_close(branch.up[site], 0.25 * a.up[site] + 0.75 * c.up[site])
    assert branch.shape.scale == a.shape.scale
    assert branch.facts() == {"soup": {"a": 0.25, "c": 0.75}}


def test_soup_of_unlike_loras_is_refused_in_one_sentence(given: Given) -> None:
    with pytest.raises(UserError, match="averages LoRAs of one rank and alpha at the same modules, but first, second, third differ: stack"):
        LoraSoupBranch(given.sources, {"first": 1.0})


@pytest.fixture(scope="module")
def trained(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    for name in ("apple", "coachella"):
        config = job("lora", (data(f"domains/{name}"),), backbone, {"rank": 4}, learning_rate=3e-2, epochs=2)
        assert run(config, root / name).error is None
    return {name: root / name for name in ("apple", "coachella")}


def transfer(method: str, backbone: str, seed: int, settings: Mapping[str, Any] = {}, **optimisation: Any) -> JobConfig:
    values = {"learning_rate": 2e-2, "epochs": 2, "patience": None, **optimisation}
    config = job(method, TASK, backbone, settings, seed, ("apple", "coachella"), **values)
    return replace(config, source_method="lora")


@pytest.mark.parametrize(("shared", "precision"), [(True, "fp32"), (False, "fp32"), (False, "bf16")])
def test_pack_goes_the_way_of_each_job_alone(shared: bool, precision: str, backbone: str, trained: dict[str, Path], tmp_path: Path) -> None:
    kinds: list[tuple[str, Mapping[str, Any]]] = [(method, {}) for method in VARIANTS if method != "scalearn_fixed"]
    configs = [transfer(method, backbone, seed, settings) for seed, (method, settings) in enumerate(kinds)]
    configs += [
        transfer(method, backbone, 11) for method in ("source_average", "dare_ties", "lorahub", "scalearn_gated", "sources_unfrozen")
    ]
    configs += [transfer("scalearn_fixed", backbone, 7, {"omega": (0.4, 0.8)}), job("adapter", TASK, backbone, patience=None, epochs=2)]
    configs += [job("lora", TASK, backbone, seed=3, patience=None, epochs=2)]
    configs = [replace(each, optimisation=replace(each.optimisation, precision=precision)) for each in configs]  # type: ignore[arg-type]
    outcomes = train_pack(configs, tmp_path / "pack", trained, shared_passes=shared)
    assert [each.error for each in outcomes] == [None] * len(configs)
    for number, config in enumerate(configs):
        (alone,) = train_pack([config], tmp_path / f"alone{number}", trained, shared_passes=shared)
        assert alone.error is None
        mine, theirs = weights(tmp_path / "pack" / str(number)), weights(tmp_path / f"alone{number}" / "0")
        for name, tensor in mine.items():
            if shared:
                assert float((tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-6)) < 1e-5, (config.method, name)
            else:
                assert torch.equal(tensor, theirs[name]), (config.method, name)


def test_finished_job_loads_and_scores_as_recorded(backbone: str, trained: dict[str, Path], tmp_path: Path) -> None:
    for method in ("scalearn", "scalearn_uniform_pp"):
        directory = tmp_path / method
        assert run(transfer(method, backbone, 0), directory, trained).error is None
        model = scalearn.load_model(directory, scalearn.load_backbone(backbone), trained)
        assert model.evaluate(TASK[0]) == pytest.approx(result(directory)["scores"]["domains/apple"]["test"], rel=1e-5)
        assert model.branch.omega.omega.shape == ((4, 2, 32) if method == "scalearn" else (2, 2, 1))
        assert result(directory)["parameters"]["source"] == 2 * 2 * 2 * 4 * 64


def test_soup_of_trained_loras_leaves_a_lora(backbone: str, trained: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "similarity").mkdir()
    rows = {
        name: {"domains/apple": value, "domains/coachella": value} for name, value in (("domains/apple", 1.0), ("domains/coachella", 0.5))
    }
    (tmp_path / "similarity/similarity.json").write_text(json.dumps({"similarity": rows}))
    config = transfer("adaptersoup", backbone, 0, {"sentence_encoder": backbone})
    outcome = run(config, tmp_path / "soup", {**trained, "similarity": tmp_path / "similarity"})
    assert outcome.error is None, outcome.error
    loaded = scalearn.load_model(tmp_path / "soup", scalearn.load_backbone(backbone), trained)
    assert isinstance(loaded.branch, LoraBranch)
    assert loaded.spec.method == "lora"
    assert math.isclose(sum(result(tmp_path / "soup")["soup"].values()), 1.0)
    assert loaded.evaluate(TASK[0]) == pytest.approx(result(tmp_path / "soup")["scores"]["domains/apple"]["test"], rel=1e-5)


@pytest.mark.parametrize("method", ["scalearn", "adaptersoup"])
def test_memory_is_measured_on_loras_of_the_sources_shape(method: str) -> None:
    config = transfer(method, "minilm", 0)
    encoder = scalearn.load_backbone("minilm").encoder
    settings = {**get_method("lora").settings, "rank": 4}
    taken = footprint(encoder, config, 16, settings)
    stacks = 12 * (2 * 4 * 768 + 2 * 4 + 2 * 384) * 4  # sites, A and B and the biases of two sources, bytes
    assert taken.per_stack == stacks
    learned = 12 * 2 * 384 if method == "scalearn" else 12 * 4 * 768
    assert taken.per_job == 5 * 4 * learned
    assert taken.per_row > 0
