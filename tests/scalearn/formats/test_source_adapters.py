"""Source adapters on disk: what is read, what is written, and what is refused with one sentence."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.configuration import BnConfig
from safetensors.torch import load_file, save_file

from scalearn.backbone.encoder import SLOT, Encoder
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import require_architecture
from scalearn.formats.library_files import read_library_head, save_adapter
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.bottleneck import BottleneckBranch
from tests.scalearn.helpers.tiny import add_random_adapter, encoder_of, library_model, save_adapters, states_of, token_batch

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def model() -> Any:
    model = library_model("roberta")
    for name in NAMES:
        add_random_adapter(model, name)
    return model


@pytest.fixture(scope="module")
def encoder(model: Any) -> Encoder:
    return encoder_of(model)


@pytest.fixture
def saved(model: Any, tmp_path: Path) -> dict[str, str | Path]:
    return save_adapters(model, tmp_path, NAMES)


def edit_config(directory: str | Path, **fields: Any) -> None:
    path = Path(directory) / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["config"].update(fields)
    path.write_text(json.dumps(saved))


def edit_file(directory: str | Path, **fields: Any) -> None:
    path = Path(directory) / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def spoil(directory: Path, value: float) -> None:
    tensors = load_file(directory / "adapter.safetensors")
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, directory / "adapter.safetensors")


def refusal(encoder: Encoder, places: dict[str, str | Path]) -> str:
    with pytest.raises(UserError) as caught:
        load_source_adapters(encoder, places)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_adapters_of_the_library_are_stacked_with_their_weights_in_the_given_order(
    model: Any, encoder: Encoder, saved: dict[str, str | Path]
) -> None:
    sources = load_source_adapters(encoder, {"two": saved["two"], "one": saved["one"]})
    assert sources.names == ("two", "one")
    assert sources.width == 8
    for site, stack in enumerate(sources.stacks):
        for index, name in enumerate(sources.names):
            prefix = f"roberta.encoder.layer.{site}.output.adapters.{name}"
            weights = load_file(Path(saved[name]) / "adapter.safetensors")
            assert torch.equal(stack.down_weight[index * 8 : (index + 1) * 8], weights[f"{prefix}.adapter_down.0.weight"])
            assert torch.equal(stack.up_weight[:, index], weights[f"{prefix}.adapter_up.weight"])
            assert torch.equal(stack.up_bias[index], weights[f"{prefix}.adapter_up.bias"])


def test_loading_leaves_the_backbone_and_the_random_stream_as_they_were(encoder: Encoder, saved: dict[str, str | Path]) -> None:
    names = list(encoder.state_dict())
    torch.manual_seed(3)
    load_source_adapters(encoder, saved)
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))
    assert list(encoder.state_dict()) == names


def test_directory_of_a_job_stands_for_the_adapter_in_it(encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    shutil.copytree(saved["one"], tmp_path / "job" / "adapter")
    direct = load_source_adapters(encoder, {"one": saved["one"]})
    found = load_source_adapters(encoder, {"one": tmp_path / "job"})
    assert torch.equal(direct.stacks[0].down_weight, found.stacks[0].down_weight)


@pytest.mark.parametrize("labels", [None, ("no", "yes", "maybe")])
@pytest.mark.parametrize("kind", ["classification", "regression", "multi_label", "multiple_choice"])
def test_saved_adapter_and_head_come_back_and_load_in_the_library(
    kind: Any, labels: tuple[str, ...] | None, model: Any, encoder: Encoder, tmp_path: Path
) -> None:
    outputs = 1 if kind == "regression" else 3
    labels = None if kind == "regression" else labels
    config = BnConfig.from_dict({**load_defaults(), "reduction_factor": 4})
    branch = BottleneckBranch(config, encoder.sites, encoder.hidden_size).eval()
    head = Head(HeadConfig(kind, outputs), encoder.hidden_size).eval()
    save_adapter(encoder, tmp_path / "adapter", "mine", branch.weights(), config, head, labels)
    stacks = load_source_adapters(encoder, {"mine": tmp_path / "adapter"}).stacks
    for own, stack in zip(branch.weights(), stacks, strict=True):
        assert torch.equal(own.up_weight, stack.up_weight.flatten(1))
        assert torch.equal(own.down_bias, stack.down_bias)
    read, names = read_library_head(tmp_path / "adapter", encoder.hidden_size)
    assert read.config.kind == kind
    assert read.config.labels == outputs
    assert names == labels
    assert all(torch.equal(own, again) for own, again in zip(head.parameters(), read.parameters(), strict=True))

    plain = encoder_of(model).model
    plain.delete_adapter(SLOT)
    name = plain.load_adapter(str(tmp_path / "adapter"), use_safetensors=True)
    plain.set_active_adapters(name)
    inputs = token_batch(3, 8)
    given = {key: tensor.view(1, 3, 8) if kind == "multiple_choice" else tensor for key, tensor in inputs.items()}
    states = encoder(inputs, [branch], [block_of(inputs)])
    torch.testing.assert_close(plain.eval()(**given).logits, head(states), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["reviews.v2", "type", "items", "train", SLOT])
def test_adapter_of_any_task_name_is_saved_and_leaves_nothing_on_the_encoder(
    name: str, model: Any, encoder: Encoder, tmp_path: Path
) -> None:
    config = BnConfig.from_dict({**load_defaults(), "reduction_factor": 4})
    branch = BottleneckBranch(config, encoder.sites, encoder.hidden_size).eval()
    head = Head(HeadConfig("classification", 2), encoder.hidden_size).eval()
    before = list(encoder.state_dict())
    save_adapter(encoder, tmp_path, name, branch.weights(), config, head)
    assert list(encoder.state_dict()) == before
    assert set(encoder.model.adapters_config.adapters) == {SLOT}
    plain = encoder_of(model).model
    plain.set_active_adapters(plain.load_adapter(str(tmp_path), use_safetensors=True))
    inputs = token_batch(3, 8)
    torch.testing.assert_close(plain.eval()(**inputs).logits, head(states_of(encoder, branch, inputs)), atol=1e-5, rtol=0)


def load_defaults() -> dict[str, Any]:
    from adapters.configuration import SeqBnConfig

    return dict(SeqBnConfig().to_dict())


def block_of(inputs: dict[str, torch.Tensor]) -> Any:
    from scalearn.layers.random_streams import RowBlock

    rows, length = inputs["input_ids"].shape
    return RowBlock(rows, length, 0)


def unsafe(model: Any, place: Path) -> None:
    model.save_adapter(str(place), "one", use_safetensors=False, with_head=False)


def test_pickled_weights_are_refused_unless_allowed(model: Any, encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    unsafe(model, tmp_path / "pickled")
    sentence = refusal(encoder, {"one": tmp_path / "pickled"})
    assert "'one'" in sentence
    assert "pytorch_adapter.bin" in sentence
    assert "allow_pickle: true" in sentence
    allowed = load_source_adapters(encoder, {"one": tmp_path / "pickled"}, allow_pickle=True)
    safe = load_source_adapters(encoder, {"one": saved["one"]})
    assert torch.equal(allowed.stacks[1].up_weight, safe.stacks[1].up_weight)


def test_pickle_that_would_run_code_does_not_run_even_when_pickles_are_allowed(
    model: Any, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return print, ("the pickle ran",)

    unsafe(model, tmp_path / "pickled")
    torch.save({"x": Harmful()}, tmp_path / "pickled" / "pytorch_adapter.bin")
    with pytest.raises(UserError):
        load_source_adapters(encoder, {"one": tmp_path / "pickled"}, allow_pickle=True)
    assert "the pickle ran" not in capsys.readouterr().out


REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "absent configuration": (lambda place: (place / "adapter_config.json").unlink(), ("adapter_config.json",)),
    "absent weights": (lambda place: (place / "adapter.safetensors").unlink(), ("no adapter.safetensors",)),
    "broken configuration": (lambda place: (place / "adapter_config.json").write_text("{"), ("no adapter configuration",)),
    "configuration without fields": (lambda place: (place / "adapter_config.json").write_text("[]"), ("no adapter configuration",)),
    "truncated weights": (
        lambda place: (place / "adapter.safetensors").write_bytes((place / "adapter.safetensors").read_bytes()[:200]),
        ("cannot be used", "header"),
    ),
    "empty weights": (lambda place: (place / "adapter.safetensors").write_bytes(b""), ("cannot be used", "header")),
    "missing tensors": (
        lambda place: save_file(dict(list(load_file(place / "adapter.safetensors").items())[2:]), place / "adapter.safetensors"),
        ("at 'roberta.encoder.layer.0.output' it lacks adapter_down.0.bias, adapter_down.0.weight",),
    ),
    "gating": (lambda place: edit_config(place, use_gating=True), ("use_gating: True", "seq_bn")),
    "adapter after attention too": (lambda place: edit_config(place, mh_adapter=True), ("mh_adapter: True",)),
    "layers of different widths": (
        lambda place: edit_config(place, reduction_factor={"0": 4, "default": 8}),
        ("reduction_factor: {'0': 4",),
    ),
    **{
        f"reduction factor {value!r}": (
            lambda place, value=value: [edit_config(place.parent / name, reduction_factor=value) for name in NAMES],
            ("'one'", f"reduction_factor: {value!r}, which is no number above 0"),
        )
        for value in (0, -4, True, "16", None, float("nan"), float("inf"))
    },
    "weights of another width": (
        lambda place: [edit_config(place.parent / name, reduction_factor=8) for name in NAMES],
        ("'one'", "adapter_down.0.bias' has shape [8], but its configuration says [4]"),
    ),
    "hidden size without bounds": (
        lambda place: (place / "adapter_config.json").write_text('{"config": {}, "hidden_size": Infinity}'),
        ("no adapter configuration",),
    ),
    "infinite weights": (lambda place: spoil(place, float("inf")), ("hold NaN or infinity",)),
    "weights that are no numbers": (lambda place: spoil(place, float("nan")), ("hold NaN or infinity",)),
    "scaled output": (lambda place: edit_config(place, scaling=4.0), ("4.0", "scaling")),
    "learned scaling": (lambda place: edit_config(place, scaling="learned"), ("learned",)),
    "another place": (lambda place: edit_config(place, original_ln_before=False), ("original_ln_before: False", "seq_bn")),
    "layers left out": (lambda place: edit_config(place, leave_out=[0]), ("leave_out: [0]",)),
    "unknown activation": (
        lambda place: [edit_config(place.parent / name, non_linearity="wobble") for name in NAMES],
        ("'wobble' is no act",),
    ),
    "activation that learns": (
        lambda place: [edit_config(place.parent / name, non_linearity="prelu") for name in NAMES],
        ("'prelu' has weig",),
    ),
    "activation that is no word": (
        lambda place: [edit_config(place.parent / name, non_linearity=None) for name in NAMES],
        ("non_linearity: None, which is no activation",),
    ),
    "no bottleneck": (
        lambda place: (place / "adapter_config.json").write_text('{"config": {"architecture": "lora", "r": 8}, "hidden_size": 32}'),
        ("not a plain sequential bottleneck",),
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_unusable_source_is_refused_in_one_sentence_that_names_it(case: str, encoder: Encoder, saved: dict[str, str | Path]) -> None:
    damage, expected = REFUSED[case]
    damage(Path(saved["two"]))
    sentence = refusal(encoder, saved)
    assert any(words.startswith("'one'") for words in expected) or "'two'" in sentence or "activation" in case
    assert all(words in sentence for words in expected), sentence
    assert not encoder.model.adapters_config.adapters.keys() - {SLOT}


def test_sources_that_are_configured_differently_are_refused_by_name(model: Any, encoder: Encoder, saved: dict[str, str | Path]) -> None:
    edit_config(saved["two"], non_linearity="gelu")
    sentence = refusal(encoder, saved)
    assert "'one' and 'two'" in sentence
    assert "non_linearity 'relu' and 'gelu'" in sentence


def test_sources_of_different_width_are_refused_by_name(model: Any, encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    other = encoder_of(model).model
    add_random_adapter(other, "wide", reduction=2)
    places = save_adapters(other, tmp_path, ("wide",))
    assert "'one' and 'wide' are configured differently (reduction_factor 4 and 2)" in refusal(encoder, {"one": saved["one"], **places})


def test_how_a_source_was_trained_is_no_disagreement(encoder: Encoder, saved: dict[str, str | Path]) -> None:
    edit_config(saved["two"], dropout=0.1, init_weights="mam_adapter", init_weights_seed=7)
    assert load_source_adapters(encoder, saved).names == NAMES


def test_source_of_another_hidden_size_is_refused_by_name(encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    other = library_model("roberta", hidden_size=48)
    add_random_adapter(other, "big")
    sentence = refusal(encoder, {**saved, **save_adapters(other, tmp_path / "other", ("big",))})
    assert "'big' has hidden size 48, but the backbone has 32" in sentence


def test_source_of_a_shallower_backbone_is_refused_by_name(encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    other = library_model("roberta", num_hidden_layers=1)
    add_random_adapter(other, "flat")
    sentence = refusal(encoder, {**saved, **save_adapters(other, tmp_path / "other", ("flat",))})
    assert "'flat'" in sentence
    assert "it has no adapter at 'roberta.encoder.layer.1.output'" in sentence


def test_source_of_a_deeper_backbone_is_refused_by_name(encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    other = library_model("roberta", num_hidden_layers=3)
    add_random_adapter(other, "deep")
    assert "'deep'" in refusal(encoder, {**saved, **save_adapters(other, tmp_path / "other", ("deep",))})


def test_source_of_another_architecture_is_refused_by_name(encoder: Encoder, saved: dict[str, str | Path], tmp_path: Path) -> None:
    other = library_model("bert")
    add_random_adapter(other, "foreign")
    assert "'foreign'" in refusal(encoder, {**saved, **save_adapters(other, tmp_path / "other", ("foreign",))})


@pytest.mark.parametrize(("here", "there"), [("roberta", "xlm-roberta"), ("xlm-roberta", "roberta")])
def test_source_of_an_architecture_with_the_same_tensors_is_refused_by_name(here: str, there: str, tmp_path: Path) -> None:
    other = library_model(there)
    add_random_adapter(other, "twin")
    places = save_adapters(other, tmp_path, ("twin",))
    sentence = refusal(encoder_of(library_model(here)), places)
    assert f"'twin' was trained on {there}, but the backbone is {here}" in sentence
    edit_file(places["twin"], model_type="")
    assert load_source_adapters(encoder_of(library_model(here)), places).names == ("twin",)


def test_sources_of_two_architectures_are_refused_by_name_before_the_backbone_is_known(saved: dict[str, str | Path]) -> None:
    places = {name: Path(place) for name, place in saved.items()}
    require_architecture(places, None)
    edit_file(saved["two"], model_type="xlm-roberta")
    with pytest.raises(UserError, match=r"'one' and 'two' .*\(roberta and xlm-roberta\)"):
        require_architecture(places, None)


@pytest.mark.parametrize(
    ("trained_on", "warned"),
    [
        ("owner/other", True),
        ("other", True),
        ("owner/backbone", False),
        ("backbone", False),
        ("/some/directory", False),
        ("", False),
        (None, False),
    ],
)
def test_source_of_another_hub_model_is_warned_of(
    trained_on: str | None, warned: bool, encoder: Encoder, saved: dict[str, str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.config, "_name_or_path", "owner/backbone")
    edit_file(saved["two"], model_name=trained_on)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_source_adapters(encoder, saved)
    told = [str(warning.message) for warning in caught if "was trained on" in str(warning.message)]
    sentence = f"Source adapter 'two' was trained on {trained_on}: make sure that owner/backbone has the same weights."
    assert told == [sentence] * warned


def test_source_that_is_nowhere_is_refused_by_name(encoder: Encoder, tmp_path: Path) -> None:
    assert "'gone'" in refusal(encoder, {"gone": tmp_path / "gone"})
    assert "neither a directory nor a reachable hub id" in refusal(encoder, {"gone": "someone/nothing-here"})


def test_hub_that_fails_without_a_word_is_one_sentence(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*arguments: Any, **named: Any) -> str:
        raise OSError

    monkeypatch.setattr("scalearn.formats.hub_directory.snapshot_download", silent)
    assert "someone/nothing-here is neither a directory nor a reachable hub id (OSError)." in refusal(
        encoder, {"gone": "someone/nothing-here"}
    )


def test_no_sources_at_all_is_refused(encoder: Encoder) -> None:
    assert "at least one" in refusal(encoder, {})


def test_width_of_saved_weights_is_that_of_the_configuration(encoder: Encoder, tmp_path: Path) -> None:
    weights = [BottleneckWeights(torch.ones(8, 32), torch.ones(8), torch.ones(32, 8), torch.ones(32))] * encoder.sites
    config = BnConfig.from_dict({**load_defaults(), "reduction_factor": 2})
    with pytest.raises(RuntimeError):
        save_adapter(encoder, tmp_path / "adapter", "mine", weights, config, None)
    assert "mine" not in encoder.model.adapters_config.adapters
