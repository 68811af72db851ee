"""A trained target as an ordinary adapter: the same function, read by the adapters library alone."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import AutoAdapterModel
from adapters.configuration import SeqBnConfig
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import scalearn
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError
from scalearn.formats.adapter_tensors import exact_reduction
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import TransferModel, load_model
from scalearn.model.transfer_files import HeadSpec, TransferSpec
from tests.scalearn.helpers.graphs import train_graph
from tests.scalearn.helpers.small import save_backbone
from tests.scalearn.helpers.tiny import CONFIGS, LAYERS, loaded, random_stacks, tiny_encoder, token_batch

TEXTS = ["Apple ruined my phone again, thanks a lot", "what a great concert at coachella", "meh", "They deflated those balls #deflategate"]


def random_model(config: OmegaConfig, sources: int, hidden: int, width: int, seed: int = 0, architecture: str = "bert") -> TransferModel:
    encoder = tiny_encoder(architecture, hidden)
    stacks = tuple(random_stacks(LAYERS, sources, hidden, width, seed))
    names = tuple(f"s{index}" for index in range(sources))
    adapters = SourceAdapters(names, stacks, SeqBnConfig(reduction_factor=hidden / width).to_dict())
    branch = ScalingBranch(stacks, config, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        branch.omega.omega.add_(0.3 * torch.randn(branch.omega.omega.shape, generator=torch.Generator().manual_seed(seed + 1)))
    torch.manual_seed(seed)
    head = Head(HeadConfig("classification", 3), hidden, init_std=0.2)
    spec = TransferSpec(
        "scalearn",
        {},
        names,
        "tiny",
        "files:sha256-0",
        hidden,
        (HeadSpec("mine/task", "classification", 3, ("a", "b", "c"), max_length=32),),
    )
    return TransferModel(loaded(encoder), spec, branch, head, adapters).eval()


@settings(deadline=None, max_examples=300)
@given(hidden=st.integers(1, 4096), width=st.integers(1, 20_000))
def test_library_computes_the_exact_width_from_the_exported_reduction(hidden: int, width: int) -> None:
    factor = json.loads(json.dumps(exact_reduction(hidden, width)))
    assert int(hidden // factor) == width


@settings(deadline=None, max_examples=30)
@given(
    architecture=st.sampled_from(list(CONFIGS)),
    hidden=st.sampled_from([12, 20, 32, 48]),
    sources=st.integers(1, 7),
    width=st.integers(1, 13),
    config=st.builds(
        OmegaConfig, per_dimension=st.booleans(), per_layer=st.booleans(), constraint=st.sampled_from(["none", "mean", "softmax"])
    ),
    seed=st.integers(0, 99),
)
def test_exported_adapter_equals_the_trained_target(
    architecture: str, hidden: int, sources: int, width: int, config: OmegaConfig, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, inputs = random_model(config, sources, hidden, width, seed, architecture), token_batch()
    place = tmp_path_factory.mktemp("export") / "adapter"
    export_adapter(fold(model), place)
    plain = AutoAdapterModel.from_config(model.encoder.config.__class__.from_dict(model.encoder.config.to_dict()))
    backbone = {name: tensor for name, tensor in model.encoder.model.state_dict().items() if ".adapters." not in name}
    assert not plain.load_state_dict(backbone, strict=False).unexpected_keys
    name = plain.load_adapter(str(place))
    plain.set_active_adapters(name)
    with torch.no_grad():
        expected, exported = model(inputs), plain.eval()(**inputs).logits
    assert float((exported - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert plain.get_adapter(name)[0]["output_adapter"].adapter_up.in_features == sources * width


def test_pruned_adapter_leaves_out_what_hardly_counts_and_is_narrower() -> None:
    model = random_model(OmegaConfig(), sources=4, hidden=32, width=5)
    assert isinstance(model.branch, ScalingBranch)
    with torch.no_grad():
        model.branch.omega.omega[:, 1] *= 1e-4
        model.branch.omega.omega[:, 3] *= 1e-4
    folded = fold(model, prune=0.01)
    assert folded.kept == ("s0", "s2")
    assert [omega.kept for omega in folded.omegas] == [True, False, True, False]
    assert folded.model.branch.sites[0].down_sample == 10
    inputs = token_batch()
    with torch.no_grad():
        torch.testing.assert_close(folded.model(inputs), model(inputs), atol=1e-2, rtol=0)
        assert not torch.equal(folded.model(inputs), model(inputs))


def test_folded_model_is_saved_and_reloaded_as_an_ordinary_adapter(tmp_path: Path) -> None:
    model, inputs = random_model(OmegaConfig(), sources=3, hidden=32, width=5), token_batch()
    assert model.sources is not None
    tanh = replace(model.sources, config={**model.sources.config, "non_linearity": "tanh"})
    folded = fold(TransferModel(model.backbone, model.spec, model.branch, model.head, tanh)).model
    folded.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path, model.backbone)(inputs), folded(inputs))
    with pytest.raises(UserError, match="'adapter' left an ordinary adapter already"):
        fold(folded)


def test_pruning_everything_is_refused() -> None:
    with pytest.raises(UserError, match="leaves no source"):
        fold(random_model(OmegaConfig(), 2, 32, 4), prune=100.0)


def test_omega_statistics_are_those_of_the_constrained_coefficients() -> None:
    model = random_model(OmegaConfig(constraint="softmax"), sources=3, hidden=32, width=4)
    assert sum(omega.mean for omega in fold(model).omegas) == pytest.approx(1.0, abs=1e-5)
    first = fold(model).omegas[0]
    assert first.smallest <= first.mean <= first.largest
    assert first.magnitude == pytest.approx(first.mean)


def test_directory_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        export_adapter(fold(random_model(OmegaConfig(), 1, 32, 4)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_adapter(fold(random_model(OmegaConfig(), 1, 32, 4)), tmp_path / "file" / "adapter")


def test_model_card_names_sources_coefficients_scores_and_use(tmp_path: Path) -> None:
    export_adapter(
        fold(random_model(OmegaConfig(), 2, 32, 4)), tmp_path / "x", scores={"test": {"loss": 0.5, "accuracy": 0.75}}, notes=["A note."]
    )
    card = (tmp_path / "x/README.md").read_text()
    for words in (
        "| s0 |",
        "| s1 |",
        "width 8",
        "0.7500",
        "A note.",
        "load_adapter(",
        "scalearn.load_model(",
        'set_active_adapters("task")',
        "`a`, `b`, `c`",
    ):
        assert words in card, words


@pytest.mark.parametrize("origin", ["hub:owner/encoder@0123456789", "files:0123456789"])
def test_hub_reads_base_model_and_scores_in_the_model_card(tmp_path: Path, origin: str) -> None:
    folded = fold(random_model(OmegaConfig(), 2, 32, 4))
    trained = replace(folded.trained, backbone_origin=origin)
    export_adapter(replace(folded, trained=trained), tmp_path / "x", scores={"test": {"loss": 0.5, "accuracy": 0.75}})
    card = ModelCard.load(tmp_path / "x/README.md")
    assert card.data.base_model == ("owner/encoder" if origin.startswith("hub:") else None)
    assert [(result.dataset_split, result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("test", "loss", 0.5),
        ("test", "accuracy", 0.75),
    ]


SWEEP = """
name: toy
benchmark: domains
backbone: {backbone}
store: runs
data: {{train_rows: 24, evaluation_rows: 12, max_length: 24}}
sources: {{tasks: [apple, coachella], settings: {{reduction_factor: 4}}}}
targets: [apple]
training: {{epochs: 1, batch_size: 8, precision: fp32}}
methods: {{scalearn: {{learning_rate: 5e-2}}, adapterfusion: {{}}}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A directory with a sweep file and its finished store."""
    root = tmp_path_factory.mktemp("sweep")
    backbone = save_backbone(root / "backbone", tokenizer)
    (root / "toy.yaml").write_text(SWEEP.format(backbone=backbone))
    store, graph = Store(root / "runs"), Sweep.load(root / "toy.yaml").expand()
    train_graph(graph, store)
    return root


def node_of(finished: Path, method: str) -> str:
    (node,) = (node for node in Sweep.load(finished / "toy.yaml").expand().nodes() if f"/{method}/apple/" in node)
    return node


def test_export_writes_an_adapter_that_computes_what_the_job_does(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    node = node_of(finished, "scalearn")
    assert main(["export", "toy.yaml", "--node", node, "--to", str(tmp_path / "out")]) == 0
    assert "2 of 2 sources" in capsys.readouterr().out
    backbone = scalearn.load_backbone(str(finished / "backbone"))
    graph = Sweep.load(finished / "toy.yaml").expand()
    sources = {parent.source_name: finished / "runs" / parent.node for parent in graph.job(node).parents}
    trained = scalearn.load_model(finished / "runs" / node, backbone, sources)
    exported = scalearn.load_model(tmp_path / "out", backbone)
    assert exported.spec.heads[0].max_length == trained.spec.heads[0].max_length == 24
    with torch.inference_mode():
        inputs = trained.tokenise(TEXTS)
        assert float((trained(inputs) - exported(inputs)).abs().max()) < 1e-5
    assert "validation" in (tmp_path / "out/README.md").read_text()


def test_export_finds_a_node_without_its_fingerprint(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    node = node_of(finished, "scalearn").rpartition("-")[0]
    assert main(["export", "toy.yaml", "--node", node, "--to", str(tmp_path / "out")]) == 0


def test_export_of_the_best_names_it_and_its_validation_score(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    node = node_of(finished, "scalearn")
    result = json.loads((finished / "runs" / node / "result.json").read_text())
    (score,) = (scores["validation"][result["primary_metric"][task]] for task, scores in result["scores"].items())
    assert main(["export", "toy.yaml", "--best", "--method", "scalearn", "--target", "apple", "--to", str(tmp_path / "out")]) == 0
    assert f"{node} has the best validation score, {score:.4f}." in capsys.readouterr().out
    assert (tmp_path / "out/README.md").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--best", "--method", "adapterfusion"], "Unknown method 'adapterfusion'"),
        (["--best", "--target", "bbc"], "None of 0 such jobs is done"),
        (["--best", "--target", "nowhere"], "Unknown task 'nowhere'"),
        (["--best", "--store", "elsewhere"], "None of 1 such jobs is done"),
        (["--best", "--node", "x"], "not allowed with argument"),
        (["--node", "x", "--target", "apple"], "go with --best"),
        ([], "One of the arguments --node --best is required"),
    ],
)
def test_export_of_the_best_refuses_what_means_no_job(
    options: list[str], words: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    assert main(["export", "toy.yaml", *options, "--to", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_export_reports_what_pruning_does_to_the_validation_score(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    assert main(["export", "toy.yaml", "--node", node_of(finished, "scalearn"), "--to", str(tmp_path / "out"), "--prune", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "on validation" in printed
    assert "loss " in printed
    assert "->" in printed
    assert "below 0.5 are left out" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--node": "adapterfusion"}, "cannot be folded"),
        ({"--node": "source/adapter"}, "ordinary adapter already"),
        ({"--node": "nowhere"}, "no node 'nowhere'"),
        ({"--prune": "-1"}, "--prune"),
        ({"--prune": "nan"}, "--prune"),
        ({"--prune": "1000"}, "leaves no source"),
        ({"--store": "elsewhere"}, "is not done"),
        ({"--to": "."}, "not empty"),
    ],
)
def test_export_refuses_wrong_input_in_one_line(
    change: dict[str, str], words: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    options = {"--node": node_of(finished, "scalearn"), "--to": str(tmp_path / "out"), **change}
    if change.get("--node") in ("adapterfusion", "source/adapter"):
        options["--node"] = node_of(finished, options["--node"])
    assert main(["export", "toy.yaml", *(word for option in options.items() for word in option)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_targets_exported_from_minilm_load_by_the_adapters_library_alone(tmp_path: Path) -> None:
    backbone = scalearn.load_backbone("minilm")
    limits: dict[str, Any] = {"backbone": "minilm", "train_rows": 64, "evaluation_rows": 32, "max_length": 32, "epochs": 1}
    sources = {name: tmp_path / name for name in ("apple", "coachella", "bbc")}
    for name, directory in sources.items():
        scalearn.fit(scalearn.job(f"domains/{name}", **limits), directory, backbone=backbone)
    expected = {}
    for method in ("scalearn", "scalearn_uniform_pp"):
        config = scalearn.job("domains/apple", method, sources=tuple(sources), learning_rate=2e-2, **limits)
        model = scalearn.fit(config, tmp_path / method, sources=sources, backbone=backbone)
        scalearn.export_adapter(scalearn.fold(model), tmp_path / "exported" / method)
        with torch.inference_mode():
            expected[method] = model(model.tokenise(TEXTS))
    program = f"""
import json, sys, torch
from adapters import AutoAdapterModel
from transformers import AutoTokenizer

logits = {{}}
inputs = AutoTokenizer.from_pretrained({backbone.backbone.locate()!r})({TEXTS!r}, padding=True, return_tensors="pt")
for method in {list(expected)!r}:
    model = AutoAdapterModel.from_pretrained({backbone.backbone.locate()!r})
    name = model.load_adapter({str(tmp_path / "exported")!r} + "/" + method)
    model.set_active_adapters(name)
    model.eval()
    with torch.no_grad():
        logits[method] = model(**inputs).logits.tolist()
print(json.dumps(logits))
assert "scalearn" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    logits = json.loads(ran.stdout.splitlines()[-1])
    for method, ours in expected.items():
        difference = float((torch.tensor(logits[method]) - ours).abs().max())
        print(f"{method}: exported logits differ by {difference:.1e}")
        assert difference < 1e-5
