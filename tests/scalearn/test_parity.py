"""Parity with the recorded outputs of the official implementation, file by file."""

import json
import os
from pathlib import Path

import pytest
import torch
from adapters import AutoAdapterModel
from safetensors import safe_open
from torch import Tensor
from transformers import RobertaConfig

from scalearn.encoder import Encoder
from scalearn.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import BottleneckWeights, SourceStack
from scalearn.methods.branch import Branch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import PlainScalingBranch, ScalingBranch
from tests.scalearn.test_parity_baselines import is_baseline

SHAPES = {
    "scalearn": OmegaConfig(),
    "scalearn_uniform": OmegaConfig(per_dimension=False),
    "scalearn_pp": OmegaConfig(per_layer=False),
    "scalearn_uniform_pp": OmegaConfig(per_dimension=False, per_layer=False),
    "scalearn_mean": OmegaConfig(constraint="mean"),
    "scalearn_softmax": OmegaConfig(constraint="softmax"),
}


def parity_files(shared: Path) -> list[Path]:
    directory = Path(os.environ.get("SCALEARN_PARITY_DIR", shared / "parity"))
    return [path for path in sorted(directory.rglob("*.safetensors")) if not is_baseline(path)]


@pytest.fixture
def recordings(shared: Path) -> list[Path]:
    files = parity_files(shared)
    assert files, "no recorded outputs were found, so nothing would be compared"
    return files


class Recording:
    """One file: parameters, inputs, outputs and gradients of the official implementation."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in tuple(file.keys())}
            metadata = file.metadata()
        self.variant = metadata["variant"]
        self.sources = metadata["adapters"].split(",")
        self.config = RobertaConfig(**json.loads(metadata["config"]))

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


def scaling_branch(recording: Recording, stacks: list[SourceStack], branch_class: type[ScalingBranch]) -> ScalingBranch:
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


def fusion_branch(recording: Recording, stacks: list[SourceStack]) -> FusionBranch:
    branch, parameters = FusionBranch(stacks, attention_dropout=0.1), recording.parameters()
    with torch.no_grad():
        for layer, fusion in enumerate(branch.fusions):
            prefix = f"roberta.encoder.layer.{layer}.output.adapter_fusion_layer.{','.join(recording.sources)}"
            for name, parameter in fusion.named_parameters():
                parameter.copy_(parameters[f"{prefix}.{name}"])
    return branch


def own_gradients(recording: Recording, branch: Branch, head: Head) -> dict[str, Tensor]:
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


def compare(recording: Recording, branch: Branch, encoder: Encoder) -> tuple[float, float, float]:
    """Largest differences: of logits, of the loss, and of gradients relative to each gradient's largest entry."""
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


def test_every_recorded_file_is_reproduced(recordings: list[Path]) -> None:
    compared = set()
    for path in recordings:
        recording = Recording(path)
        encoder = recording.encoder()
        stacks = recording.stacks(encoder)
        if recording.variant == "adapterfusion":
            branches: list[Branch] = [fusion_branch(recording, stacks)]
        else:
            branches = [scaling_branch(recording, stacks, kind) for kind in (ScalingBranch, PlainScalingBranch)]
        for branch in branches:
            logits, loss, gradient = compare(recording, branch, encoder)
            print(f"{path.name} {type(branch).__name__}: logits {logits:.1e}, loss {loss:.1e}, gradients {gradient:.1e}")
            assert logits < 1e-5, path.name
            assert loss < 1e-5, path.name
            assert gradient < 1e-4, path.name
        compared.add(path)
    assert compared == set(recordings)
