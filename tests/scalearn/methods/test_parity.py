"""Parity with the recorded outputs of the official implementation, file by file."""

import shutil
from pathlib import Path

import pytest
import torch
from adapters import AutoAdapterModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import BottleneckWeights, SourceStack, plain_weighted_sum
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import PlainScalingBranch, ScalingBranch
from tests.scalearn.helpers import parity_baselines
from tests.scalearn.helpers.parity_files import Differences, Recording, assert_reproduced, directory, is_baseline, recorded_files

SHAPES = {
    "scalearn": OmegaConfig(),
    "scalearn_uniform": OmegaConfig(per_dimension=False),
    "scalearn_pp": OmegaConfig(per_layer=False),
    "scalearn_uniform_pp": OmegaConfig(per_dimension=False, per_layer=False),
    "scalearn_mean": OmegaConfig(constraint="mean"),
    "scalearn_softmax": OmegaConfig(constraint="softmax"),
}


FILES = recorded_files()


class StackedRecording(Recording):
    """One file: parameters, inputs, outputs and gradients of the official implementation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sources = self.metadata["adapters"].split(",")

    def parameters(self) -> dict[str, Tensor]:
        return {name.removeprefix("param."): tensor for name, tensor in self.tensors.items() if name.startswith("param.")}

    def gradients(self) -> dict[str, Tensor]:
        return {name.removeprefix("grad."): tensor for name, tensor in self.tensors.items() if name.startswith("grad.")}

    def encoder(self) -> Encoder:
        model = AutoAdapterModel.from_config(self.config, attn_implementation="eager")
        own = {name: tensor for name, tensor in self.parameters().items() if name in model.state_dict()}
        assert {name for name, _ in model.named_parameters() if "prompt_tuning" not in name} == set(own) - {
            "roberta.embeddings.position_ids"
        }
        model.load_state_dict(own, strict=False)
        return Encoder(model).eval()

    def stacks(self, encoder: Encoder) -> list[SourceStack]:
        parameters = self.parameters()
        stacks = []
        for layer in range(encoder.sites):
            prefix = f"roberta.encoder.layer.{layer}.output.adapters"
            names = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
            weights = [BottleneckWeights(*(parameters[f"{prefix}.{source}.{name}"] for name in names)) for source in self.sources]
            stacks.append(SourceStack(weights))
        return stacks

    def head(self) -> Head:
        parameters = self.parameters()
        labels, hidden = parameters["heads.target.4.weight"].shape
        head = Head(HeadConfig("classification", labels), hidden).eval()
        with torch.no_grad():
            for index, layer in (("1", head.dense), ("4", head.out)):
                layer.weight.copy_(parameters[f"heads.target.{index}.weight"])
                layer.bias.copy_(parameters[f"heads.target.{index}.bias"])
        return head


def scaling_branch(recording: StackedRecording, stacks: list[SourceStack], branch_class: type[ScalingBranch]) -> ScalingBranch:
    branch = branch_class(stacks, SHAPES[recording.variant])
    parameters, group = recording.parameters(), ",".join(recording.sources)
    names = (
        [f"roberta.shared_parameters.{group}.omega"]
        if not branch.omega.config.per_layer
        else [f"roberta.encoder.layer.{layer}.output.scalearn_layer.{group}.omega" for layer in range(len(stacks))]
    )
    with torch.no_grad():
        branch.omega.omega.copy_(torch.stack([parameters[name] for name in names]))
    return branch


class PlainFusionBranch(FusionBranch):
    """The library's own fusion module on every source's output: the reference for the folded products."""

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        stack = self.stacks[site]
        alone = torch.eye(stack.sources).unsqueeze(-1)
        ups = torch.stack([plain_weighted_sum(stack, hidden_states, one) for one in alone], dim=2)
        mixed: Tensor = self.sites[site](hidden_states, ups, ups, torch.zeros_like(hidden_states))
        return mixed


def fusion_branch(recording: StackedRecording, stacks: list[SourceStack], branch_class: type[FusionBranch]) -> FusionBranch:
    branch, parameters = branch_class(stacks, attention_dropout=0.1), recording.parameters()
    with torch.no_grad():
        for layer, fusion in enumerate(branch.fusions):
            prefix = f"roberta.encoder.layer.{layer}.output.adapter_fusion_layer.{','.join(recording.sources)}"
            for name, parameter in fusion.named_parameters():
                parameter.copy_(parameters[f"{prefix}.{name}"])
    return branch


def own_gradients(recording: StackedRecording, branch: Branch, head: Head) -> dict[str, Tensor]:
    """Our gradients under the official names."""
    group = ",".join(recording.sources)
    gradients = {}
    for index, layer in (("1", head.dense), ("4", head.out)):
        gradients[f"heads.target.{index}.weight"], gradients[f"heads.target.{index}.bias"] = layer.weight.grad, layer.bias.grad
    if isinstance(branch, ScalingBranch):
        for layer, gradient in enumerate(branch.omega.omega.grad):
            shared = not branch.omega.config.per_layer
            gradients[
                f"roberta.shared_parameters.{group}.omega"
                if shared
                else f"roberta.encoder.layer.{layer}.output.scalearn_layer.{group}.omega"
            ] = gradient
    else:
        for layer, fusion in enumerate(branch.fusions):
            for name, parameter in fusion.named_parameters():
                gradients[f"roberta.encoder.layer.{layer}.output.adapter_fusion_layer.{group}.{name}"] = parameter.grad
    return gradients


def compare(recording: StackedRecording, branch: Branch, encoder: Encoder) -> Differences:
    head = recording.head()
    branch.eval()
    inputs = {"input_ids": recording.tensors["in.input_ids"], "attention_mask": recording.tensors["in.attention_mask"]}
    logits = head(encoder(inputs, [branch], [RowBlock(*inputs["input_ids"].shape, seed=0)]))
    loss = head.loss(logits, recording.tensors["in.labels"])
    loss.backward()
    ours, theirs = own_gradients(recording, branch, head), recording.gradients()
    assert set(ours) == set(theirs)
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    relative = []
    for name, gradient in theirs.items():
        scale = float(gradient.abs().max())
        # The gradient of a key bias is zero in exact arithmetic (softmax ignores a constant), so its recorded entries are rounding.
        relative.append(float((ours[name] - gradient).abs().max()) / (scale if scale > 1e-6 * largest else largest))
    logits, loss = logits.detach(), loss.detach()
    return (
        float((logits - recording.tensors["out.logits"]).abs().max()),
        float((loss - recording.tensors["out.loss"]).abs().max()),
        max(relative),
    )


def reproduce(path: Path) -> None:
    recording = StackedRecording(path)
    encoder = recording.encoder()
    stacks = recording.stacks(encoder)
    branches: list[Branch]
    if recording.variant == "adapterfusion":
        branches = [fusion_branch(recording, stacks, kind) for kind in (FusionBranch, PlainFusionBranch)]
    else:
        branches = [scaling_branch(recording, stacks, kind) for kind in (ScalingBranch, PlainScalingBranch)]
    for branch in branches:
        assert_reproduced(f"{path.name} {type(branch).__name__}", compare(recording, branch, encoder))


def test_there_are_recorded_files() -> None:
    """Else nothing is compared below. A directory that was named and is not there is a mistake, not a reason to skip."""
    if directory() is None:
        pytest.skip("no recorded outputs: set SCALEARN_PARITY_DIR to where they lie")
    assert FILES, f"{directory()} holds no recorded outputs, so nothing would be compared"


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_recorded_file_is_reproduced(path: Path) -> None:
    (parity_baselines.reproduce if is_baseline(path) else reproduce)(path)


@pytest.fixture
def one_of_each() -> dict[bool, Path]:
    """A file of a baseline under True, and of another variant under False."""
    if not FILES:
        pytest.skip("no recorded outputs: set SCALEARN_PARITY_DIR to where they lie")
    return {is_baseline(path): path for path in FILES}


def test_named_directory_may_hold_files_of_one_kind(one_of_each: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEARN_SHARED", str(tmp_path / "nowhere"))
    for kind, path in one_of_each.items():
        named = tmp_path / str(kind)
        named.mkdir()
        shutil.copyfile(path, named / "anything.safetensors")
        monkeypatch.setenv("SCALEARN_PARITY_DIR", str(named))
        assert recorded_files() == [named / "anything.safetensors"]
        test_recorded_file_is_reproduced(named / "anything.safetensors")


def test_file_that_is_no_recording_fails_instead_of_being_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEARN_PARITY_DIR", str(tmp_path / "named"))
    for name in ("named/README.md", "elsewhere/other.npz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"of another kind")
    (tmp_path / "named/linked").symlink_to(tmp_path / "elsewhere")
    (path,) = recorded_files()
    assert path.name == "other.npz"
    with pytest.raises(SafetensorError):
        test_recorded_file_is_reproduced(path)


def test_file_of_an_unknown_variant_fails_instead_of_being_passed_over(one_of_each: dict[bool, Path], tmp_path: Path) -> None:
    with safe_open(one_of_each[False], "pt") as file:
        save_file({name: file.get_tensor(name) for name in tuple(file.keys())}, tmp_path / "new", {**file.metadata(), "variant": "new"})
    with pytest.raises(KeyError, match="new"):
        test_recorded_file_is_reproduced(tmp_path / "new")
