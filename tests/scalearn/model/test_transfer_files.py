"""A finished job on disk: it reloads to the same logits in a fresh process, and what does not fit is refused."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import AutoAdapterModel
from safetensors.torch import load_file, save_file
from transformers import BertModel, PreTrainedTokenizerFast

import scalearn
from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.omega import OmegaConfig
from scalearn.methods.scaling import ScalingBranch
from scalearn.model import transfer_files
from scalearn.model.model import LoadedBackbone, load_backbone, load_model
from scalearn.tasks import own_task, register_task
from scalearn.training.pack import Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.packs import difference, stop_at
from tests.scalearn.helpers.small import data, job, run

SOURCES = ("apple", "coachella")
TEXTS = ["I love my new phone", "what a concert", "meh", "the battery died again, and nobody at the store cared"]
METHODS = {
    "adapter": {},
    "scalearn": {},
    "scalearn_uniform": {},
    "scalearn_pp": {},
    "scalearn_uniform_pp": {},
    "scalearn_mean": {},
    "scalearn_softmax": {},
    "scalearn_fixed": {"omega": (0.4, 0.6)},
    "scalearn_gated": {},
    "adapterfusion": {},
}


@pytest.fixture(scope="module")
def trained(place: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs of every method, each in a directory of its name, and their sources."""
    root = tmp_path_factory.mktemp("trained")
    parents = {name: root / name for name in SOURCES}
    for name, directory in parents.items():
        assert run(job("adapter", (data(f"domains/{name}"),), place), directory).error is None
    for method, settings in METHODS.items():
        sources = () if method == "adapter" else SOURCES
        config = job(method, (data("domains/apple"),), place, settings, sources=sources, learning_rate=5e-3)
        assert run(config, root / method, parents if sources else {}).error is None
    return root


def sources_of(trained: Path, method: str) -> Mapping[str, Path] | None:
    return None if method == "adapter" else {name: trained / name for name in SOURCES}


def logits(model: scalearn.TransferModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(model.tokenise(TEXTS))
    return found


@pytest.mark.parametrize("method", list(METHODS))
def test_job_reloads_to_the_scores_that_it_reported(method: str, trained: Path, backbone: LoadedBackbone) -> None:
    model = load_model(trained / method, backbone, sources_of(trained, method))
    reported = json.loads((trained / method / "result.json").read_text())["scores"]["domains/apple"]
    for split in ("validation", "test"):
        scores = model.evaluate(data("domains/apple"), split)
        assert scores == pytest.approx(reported[split], abs=1e-5)


def test_saved_models_give_identical_logits_in_a_fresh_process(place: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    expected = {}
    for method in METHODS:
        model = load_model(trained / method, backbone, sources_of(trained, method))
        expected[method] = logits(model)
        if method != "adapter":
            model.save(tmp_path / method)
    save_file(expected, tmp_path / "expected.safetensors")
    program = f"""
import torch
from pathlib import Path
from safetensors.torch import load_file
import scalearn

backbone = scalearn.load_backbone({place!r})
trained, saved = Path({str(trained)!r}), Path({str(tmp_path)!r})
loaded = scalearn.load_source_adapters(backbone.encoder, {{name: trained / name for name in {SOURCES!r}}})
for method, expected in load_file(saved / "expected.safetensors").items():
    sources = None if method == "adapter" else loaded
    for directory in (trained / method, saved / method):
        if directory.exists():
            model = scalearn.load_model(directory, backbone, sources)
            with torch.inference_mode():
                print(method, float((model(model.tokenise({TEXTS!r})) - expected).abs().max()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    differences = [line.split() for line in ran.stdout.splitlines()]
    assert len(differences) == 2 * len(METHODS) - 1
    assert {method for method, _ in differences} == set(METHODS)
    assert all(float(difference) == 0.0 for _, difference in differences), ran.stdout


def test_shared_omega_is_saved_once(trained: Path) -> None:
    assert load_file(trained / "scalearn_pp/transfer/omega.safetensors")["omega"].shape == (1, 2, 32)
    assert load_file(trained / "scalearn/transfer/omega.safetensors")["omega"].shape == (2, 2, 32)
    assert load_file(trained / "scalearn_uniform_pp/transfer/omega.safetensors")["omega"].shape == (1, 2, 1)


def test_predictions_name_labels_and_sum_to_one(trained: Path, backbone: LoadedBackbone) -> None:
    model = load_model(trained / "scalearn", backbone, sources_of(trained, "scalearn"))
    predictions = model.predict(TEXTS, rows_per_pass=3)
    assert len(predictions) == len(TEXTS)
    for prediction, row in zip(predictions, logits(model), strict=True):
        assert set(prediction.scores) == {"negative", "neutral", "positive"}
        assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-6)
        assert prediction.labels == (list(prediction.scores)[int(row.argmax())],)
    assert model.predict([]) == []
    assert model.predict(["one text"]) == model.predict(["one text"])


@pytest.mark.parametrize(
    ("kind", "labels", "texts"),
    [
        ("multi_label", 3, ["a", ("a", "b")]),
        ("regression", 1, [("a", "b"), "c"]),
        ("multiple_choice", 2, [("it rained because", ["the clouds came", "the sun shone"]), ("so", ["a", "b"])]),
    ],
)
def test_predictions_of_every_kind_of_head(kind: Any, labels: int, texts: list[Any], backbone: LoadedBackbone) -> None:
    model = scalearn.attach(backbone, "adapter", scalearn.HeadConfig(kind, labels), settings={"reduction_factor": 4})
    first, second = model.predict(texts)
    if kind == "regression":
        assert first.labels == second.labels == ()
        assert set(first.scores) == {"value"}
    elif kind == "multi_label":
        assert set(first.labels) == {name for name, score in first.scores.items() if score > 0.5}
    else:
        assert sum(first.scores.values()) == pytest.approx(1.0)
        assert len(first.labels) == 1


def test_attached_model_starts_as_a_job_of_its_seed_and_can_be_trained(trained: Path, backbone: LoadedBackbone) -> None:
    loaded = scalearn.load_source_adapters(backbone.encoder, {name: trained / name for name in SOURCES})
    head = scalearn.HeadConfig("classification", 3)
    model, twin = (scalearn.attach(backbone, "scalearn", head, sources=loaded, seed=4) for _ in range(2))
    assert all(torch.equal(own, other) for own, other in zip(model.learned().values(), twin.learned().values(), strict=True))
    model.train()
    inputs, labels = model.tokenise(TEXTS), torch.tensor([2, 1, 0, 0])
    optimiser = torch.optim.AdamW(model.learned().values(), lr=1e-2)
    before = model.head.loss(model.eval()(inputs), labels)
    for _ in range(5):
        model.train()
        optimiser.zero_grad()
        model.head.loss(model(inputs), labels).backward()
        optimiser.step()
    assert float(model.head.loss(model.eval()(inputs), labels).detach()) < float(before.detach())
    assert float((model.learned()["branch.omega"] - twin.learned()["branch.omega"]).abs().max().detach()) > 0


def test_fit_trains_and_returns_the_best_evaluation(place: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    options = {"train_rows": 24, "evaluation_rows": 12, "max_length": 24, "epochs": 2, "batch_size": 8, "precision": "fp32"}
    config = scalearn.job("domains/apple", "scalearn_pp", backbone=place, sources=SOURCES, **options)
    assert config.optimisation.learning_rate == 6e-3
    assert config.settings["omega_dropout"] == 0.3
    model = scalearn.fit(config, tmp_path / "job", sources={name: trained / name for name in SOURCES}, backbone=backbone)
    reported = json.loads((tmp_path / "job/result.json").read_text())["scores"]["domains/apple"]["validation"]
    assert model.evaluate(data("domains/apple"), "validation") == pytest.approx(reported, abs=1e-5)


def test_fit_on_pickled_sources_returns_its_model_where_they_are_allowed(place: str, trained: Path, tmp_path: Path) -> None:
    sources: dict[str, str | Path] = {name: tmp_path / name for name in SOURCES}
    library = AutoAdapterModel.from_pretrained(place)
    for name, directory in sources.items():
        loaded = library.load_adapter(str(trained / name / "adapter"), use_safetensors=True)
        library.save_adapter(str(directory), loaded, use_safetensors=False, with_head=False)
    options = {"train_rows": 8, "evaluation_rows": 8, "max_length": 24, "epochs": 1, "precision": "fp32"}
    config = scalearn.job("domains/apple", "scalearn", backbone=place, sources=SOURCES, **options)
    with pytest.raises(UserError, match="allow_pickle"):
        scalearn.fit(config, tmp_path / "job", sources=sources)
    model = scalearn.fit(config, tmp_path / "job", sources=sources, runtime=Runtime(device="cpu", allow_pickle=True))
    assert model.spec.sources == SOURCES


def test_fit_trains_a_soup_where_it_is_told_how_similar_the_tasks_are(
    place: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path
) -> None:
    options = {"train_rows": 8, "evaluation_rows": 8, "max_length": 24, "epochs": 1, "precision": "fp32"}
    config = scalearn.job("domains/apple", "adaptersoup", backbone=place, sources=SOURCES, **options)
    sources = {name: trained / name for name in SOURCES}
    with pytest.raises(UserError, match="give similarity, the directory of a sweep's similarity job"):
        scalearn.fit(config, tmp_path / "job", sources=sources)
    table = {"similarity": {"domains/apple": {"domains/apple": 0.6, "domains/coachella": 0.2}}}
    (tmp_path / "similarity.json").write_text(json.dumps(table))
    model = scalearn.fit(config, tmp_path / "job", sources=sources, similarity=tmp_path, backbone=backbone)
    assert json.loads((tmp_path / "job/result.json").read_text())["soup"] == pytest.approx({"apple": 0.75, "coachella": 0.25})
    assert len(model.predict(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize(("method", "kind"), [("compacter_pp", "Compacter"), ("ia3", "(IA)³")])
def test_library_method_is_refused_with_what_loads_it(method: str, kind: str, place: str, backbone: LoadedBackbone, tmp_path: Path) -> None:
    assert run(job(method, (data("domains/apple"),), place), tmp_path).error is None
    sentence = refusal(tmp_path, backbone, None)
    assert kind in sentence
    assert "use load_adapter of that library" in sentence


def test_adapter_reads_as_many_tokens_as_in_training(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    model = load_model(trained / "adapter", backbone)
    (head,) = model.spec.heads
    assert (head.task, head.max_length) == ("domains/apple", 24)
    assert model.tokenise(["a" * 100])["input_ids"].shape == (1, 24)
    model.save(tmp_path)
    again = load_model(tmp_path, backbone)
    assert again.predict(TEXTS) == model.predict(TEXTS)
    assert again.spec.heads[0].max_length == 24


def test_fit_continues_its_own_checkpoint_and_refuses_that_of_another_job(place: str, backbone: LoadedBackbone, tmp_path: Path) -> None:
    options = {"train_rows": 24, "evaluation_rows": 12, "max_length": 24, "epochs": 2, "batch_size": 8, "precision": "fp32"}
    config = scalearn.job("domains/apple", "adapter", backbone=place, **options)
    with pytest.raises(Stop):
        run(config, tmp_path / "parts", report=stop_at(3))
    for field, other in {
        "seed": scalearn.job("domains/apple", "adapter", backbone=place, seed=1, **options),
        "optimisation.learning_rate": scalearn.job("domains/apple", "adapter", backbone=place, learning_rate=0.5, **options),
        "data.0.train_rows": scalearn.job("domains/apple", "adapter", backbone=place, **{**options, "train_rows": 16}),
    }.items():
        with pytest.raises(UserError, match=rf"holds the checkpoint of another job \({field} is"):
            scalearn.fit(other, tmp_path / "parts")
    latest = tmp_path / "parts/checkpoint/latest.json"
    saved = json.loads(latest.read_text())
    del saved["job"]  # as an earlier version wrote it
    latest.write_text(json.dumps(saved))
    scalearn.fit(config, tmp_path / "parts", backbone=backbone)
    scalearn.fit(config, tmp_path / "whole", backbone=backbone)
    assert not list(tmp_path.glob("*/checkpoint"))
    assert difference(tmp_path / "whole", tmp_path / "parts") == 0.0


def test_fit_that_fails_says_why(place: str, tmp_path: Path) -> None:
    options = {"train_rows": 24, "max_length": 24, "batch_size": 8, "learning_rate": 1e30, "max_gradient_norm": None}
    config = scalearn.job("domains/apple", "adapter", backbone=place, **options)
    with pytest.raises(UserError, match="learning rate"):
        scalearn.fit(config, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("domains/aple", "adapter"), "domains/apple"),
        (("domains/apple", "scalern"), "scalearn"),
        (("domains/apple", "scalearn"), "needs sources"),
    ],
)
def test_job_refuses_what_it_does_not_know(arguments: tuple[str, str], words: str, place: str) -> None:
    with pytest.raises(UserError, match=words):
        scalearn.job(*arguments, backbone=place)
    with pytest.raises(UserError, match="learning_rate"):
        scalearn.job("domains/apple", backbone=place, learning_rat=1e-3)
    with pytest.raises(UserError, match="takes 64 tokens"):
        scalearn.job("domains/apple", backbone=place, max_length=65)


def refusal(directory: Path, backbone: LoadedBackbone, sources: SourceAdapters | Mapping[str, str | Path] | None) -> str:
    with pytest.raises(UserError) as caught:
        load_model(directory, backbone, sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_in_another_order_are_refused(trained: Path, backbone: LoadedBackbone) -> None:
    swapped = {name: trained / name for name in reversed(SOURCES)}
    assert "in the same order" in refusal(trained / "scalearn", backbone, swapped)
    assert "was given none" in refusal(trained / "scalearn", backbone, None)


def test_another_backbone_is_refused_and_one_that_may_be_the_same_is_warned_of(
    trained: Path, backbone: LoadedBackbone, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    sources = load_source_adapters(backbone.encoder, {name: trained / name for name in SOURCES})
    for seed, vocabulary, words in ((1, len(tokenizer), "trained on the weights files:sha256-"), (0, 300, "with vocabulary 259, but")):
        torch.manual_seed(seed)
        other = copy.deepcopy(backbone.encoder.model.config)
        other.vocab_size = vocabulary
        BertModel(other).save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
        assert words in refusal(trained / "scalearn", load_backbone(str(tmp_path / str(seed))), sources)
    hub = replace(backbone, backbone=replace(backbone.backbone, origin="hub:owner/model@main"))
    with pytest.warns(UserWarning, match="make sure that hub:owner/model@main are the same"):
        model = load_model(trained / "scalearn", hub, sources)
    assert torch.equal(logits(model), logits(load_model(trained / "scalearn", backbone, sources)))


def test_other_weights_of_a_source_are_refused_by_name(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    shutil.copytree(trained / "coachella/adapter", tmp_path / "coachella")
    path = tmp_path / "coachella/adapter.safetensors"
    save_file({name: tensor + (1e-3 if "up.bias" in name else 0) for name, tensor in load_file(path).items()}, path)
    sources = {"apple": trained / "apple", "coachella": tmp_path / "coachella"}
    assert "was trained on other weights of coachella" in refusal(trained / "scalearn", backbone, sources)


def test_job_that_an_earlier_version_saved_is_loaded(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    sources = sources_of(trained, "scalearn")
    shutil.copytree(trained / "scalearn/transfer", tmp_path / "transfer")
    path = tmp_path / "transfer/transfer_config.json"
    saved = json.loads(path.read_text())
    del saved["built_on"]
    path.write_text(json.dumps(saved))
    assert torch.equal(logits(load_model(tmp_path, backbone, sources)), logits(load_model(trained / "scalearn", backbone, sources)))


def test_directory_that_is_used_again_holds_the_last_job(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    shutil.copytree(trained / "scalearn/transfer", tmp_path / "transfer")
    assert run(job("adapter", (data("domains/apple"),), backbone.backbone.name), tmp_path).error is None
    assert load_model(tmp_path, backbone).spec.method == "adapter"


def test_pickled_adapter_is_loaded_as_a_model_only_where_that_is_allowed(
    place: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path
) -> None:
    library = AutoAdapterModel.from_pretrained(place)
    name = library.load_adapter(str(trained / "adapter/adapter"), use_safetensors=True)
    library.save_adapter(str(tmp_path), name, use_safetensors=False)
    assert "allow_pickle" in refusal(tmp_path, backbone, None)
    model = load_model(tmp_path, backbone, allow_pickle=True)
    inputs = model.tokenise(TEXTS)
    with torch.inference_mode():
        assert torch.equal(model(inputs), load_model(trained / "adapter", backbone)(inputs))


class Shifted(ScalingBranch):
    """A branch of another package with a parameter beside omega."""

    def __init__(self, stacks: Any) -> None:
        super().__init__(stacks, OmegaConfig())
        self.shift = torch.nn.Parameter(torch.zeros(()))


def test_parameters_that_a_branch_has_beside_omega_are_saved_too(
    trained: Path, backbone: LoadedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = load_source_adapters(backbone.encoder, {name: trained / name for name in SOURCES})
    model = load_model(trained / "scalearn", backbone, sources)
    model.branch = Shifted(sources.stacks)
    with torch.no_grad():
        model.branch.shift.fill_(3.0)
    model.save(tmp_path)
    monkeypatch.setattr(transfer_files, "build_branch", lambda *_: Shifted(sources.stacks))
    again = load_model(tmp_path, backbone, sources).branch
    assert isinstance(again, Shifted)
    assert float(again.shift.detach()) == 3.0
    assert torch.equal(again.omega.omega, model.branch.omega.omega)


def test_fit_reads_local_data_where_it_is_told(place: str, backbone: LoadedBackbone, tmp_path: Path) -> None:
    (tmp_path / "mine/moods").mkdir(parents=True)
    (tmp_path / "mine/moods/train.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    register_task(own_task("mine/moods", {"columns": "text", "splits": {"validation": None, "test": None}}))
    config = scalearn.job("mine/moods", backbone=place, root=tmp_path, max_length=24, epochs=1, settings={"reduction_factor": 4})
    with pytest.raises(UserError, match="the directory that holds mine/moods/"):
        scalearn.fit(config, tmp_path / "job", backbone=backbone)
    with pytest.raises(UserError, match="give the root that holds them"):
        load_task(DataConfig("glue/rte", "files:sha256-0"), root=None)
    assert scalearn.fit(config, tmp_path / "job", backbone=backbone, root=tmp_path).spec.heads[0].labels == 2


def test_directory_without_a_job_is_refused(backbone: LoadedBackbone, tmp_path: Path) -> None:
    assert "give the directory of a finished job" in refusal(tmp_path, backbone, None)


def test_split_that_a_task_does_not_have_is_refused(trained: Path, backbone: LoadedBackbone) -> None:
    model = load_model(trained / "adapter", backbone)
    with pytest.raises(UserError, match="has no split 'dev': it has train, validation, test"):
        model.evaluate(data("domains/apple"), "dev")
