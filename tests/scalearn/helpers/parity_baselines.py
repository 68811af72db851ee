"""Parity of the baselines with a recorded file: several tasks, each with its own batch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from adapters import AutoAdapterModel
from torch import Tensor, nn

from scalearn.backbone.encoder import SLOT, Encoder, bottleneck_config
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.hyperformer import HyperConfig, HyperformerBranch
from scalearn.methods.propetl import JointPropetlBranch, PropetlBranch
from tests.scalearn.helpers.parity_files import JOINT_AND_PROPETL, Differences, Recording, assert_reproduced

HYPER = "roberta.encoder.adapter_layers_hyper_net"


class JointRecording(Recording):
    """One file: parameters, and each task's inputs, outputs and gradients, of the official implementation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.tasks: list[str] = list(json.loads(self.metadata["tasks"]))
        self.method = json.loads(self.metadata.get("method_config", "{}"))
        self.reduction = self.method.get("reduction_factor") or float(self.metadata["reduction_factor"])
        self.sparsity = self.method.get("sparsity") or float(self.metadata.get("sparsity", "nan"))
        if self.method:
            self.tasks = self.method["tasks"]

    def parameter(self, name: str) -> Tensor:
        return self.tensors[f"param.{name}"]

    def gradients(self, task: str) -> dict[str, Tensor]:
        prefix = f"grad.{task}."
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def encoder(self) -> Encoder:
        model = AutoAdapterModel.from_config(self.config, attn_implementation="eager")
        wanted = {name for name, _ in model.named_parameters() if "prompt_tuning" not in name}
        model.load_state_dict({name: self.parameter(name) for name in wanted}, strict=False)
        encoder = Encoder(model).eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(SLOT not in name and name in wanted)
        return encoder

    def head(self, task: str) -> tuple[Head, dict[str, nn.Parameter]]:
        """A task's head, and its parameters by official name."""
        names = {"1": "dense", "4": "out"} if f"param.heads.{task}.1.weight" in self.tensors else {"dense": "dense", "out_proj": "out"}
        if f"param.heads.{task}.weight" in self.tensors:
            names = {"": "out"}
        labels, ids = self.tensors[f"in.{task}.labels"], self.tensors[f"in.{task}.input_ids"]
        outputs = self.parameter(f"heads.{task}.{list(names)[-1]}.weight".replace("..", ".")).shape[0]
        if ids.dim() == 3:
            config = HeadConfig("multiple_choice", ids.shape[1], layers=1 if len(names) == 1 else 2)
        elif labels.dim() == 2:
            config = HeadConfig("multi_label", outputs)
        else:
            config = HeadConfig("regression" if labels.is_floating_point() else "classification", outputs)
        head = Head(config, self.config.hidden_size).eval()
        own = dict(head.named_parameters())
        parameters = {
            f"heads.{task}.{official}.{kind}".replace("..", "."): own[f"{name}.{kind}"]
            for official, name in names.items()
            for kind in ("weight", "bias")
        }
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.parameter(name))
        return head, parameters

    def branch(self) -> tuple[Branch, dict[str, tuple[nn.Parameter, int | None]]]:
        """The branch, filled, and where each official parameter lies: our parameter, and its row."""
        config = bottleneck_config({"reduction_factor": self.reduction})
        layers, hidden, count = self.config.num_hidden_layers, self.config.hidden_size, len(self.tasks)
        branch: Branch
        if self.variant == "propetl":
            branch = PropetlBranch(config, layers, hidden, self.sparsity)
            places = dict(_propetl_places(branch, self.tasks[0], layers))
        elif self.variant == "propetl_m":
            branch = JointPropetlBranch(config, layers, hidden, self.sparsity, count)
            places = dict(_joint_propetl_places(branch, self.tasks, layers))
        else:
            sizes = HyperConfig(
                width=hidden // int(self.reduction),
                embedding=self.method["task_embedding_dim"],
                hidden=self.method["task_hidden_dim"],
                projected=self.method["projected_task_embedding_dim"],
                per_layer=self.variant == "hyperformer",
            )
            branch = HyperformerBranch(sizes, count, layers, hidden)
            places = dict(_hyperformer_places(branch, self.tasks))
        with torch.no_grad():
            for name, (parameter, row) in places.items():
                own = parameter if row is None else parameter[row]
                # What the official model holds under several names must be one value here too.
                own.copy_(self.parameter(name))
            for name, (parameter, row) in places.items():
                assert torch.equal(parameter if row is None else parameter[row], self.parameter(name)), name
        unplaced = {name.removeprefix("param.") for name in self.tensors if name.startswith("param.")} - set(places)
        assert not [name for name in unplaced if "adapter" in name or "task_embedding" in name], unplaced
        return branch, places


Place = tuple[nn.Parameter, int | None]
"""Our parameter, and its row where it holds several of theirs."""
Places = Iterator[tuple[str, Place]]


def _propetl_places(branch: PropetlBranch, task: str, layers: int) -> Places:
    down, up = branch.prototype.adapter_down[0], branch.prototype.adapter_up
    for layer in range(layers):
        prefix = f"roberta.encoder.layer.{layer}.output"
        for official, module in (("adapter_down.0", down), ("adapter_up", up)):
            yield f"{prefix}.adapters.{task}.{official}.weight", (module.weight, None)
            yield f"{prefix}.adapters.{task}.{official}.bias", (module.bias, None)
        yield f"{prefix}.adapters_mask.{task}.down_mask", (branch.down_scores, layer)
        yield f"{prefix}.adapters_mask.{task}.up_mask", (branch.up_scores, layer)


def _joint_propetl_places(branch: JointPropetlBranch, tasks: list[str], layers: int) -> Places:
    down, up = branch.prototype.adapter_down[0], branch.prototype.adapter_up
    for layer in range(layers):
        prefix = f"roberta.encoder.layer.{layer}.output.adapter_controller"
        for official, module in (("down_sampler", down), ("up_sampler", up)):
            yield f"{prefix}.adapters.common_adapter.{official}.weight", (module.weight, None)
            yield f"{prefix}.adapters.common_adapter.{official}.bias", (module.bias, None)
        rows = {**{task: row for row, task in enumerate(tasks)}, "layer": len(tasks) - 1 + layer}
        for name, row in rows.items():
            yield f"{prefix}.mask_scores.{name}_down_mask.param", (branch.down_scores, row)
            yield f"{prefix}.mask_scores.{name}_up_mask.param", (branch.up_scores, row)


def _hyperformer_places(branch: HyperformerBranch, tasks: list[str]) -> Places:
    for row, task in enumerate(tasks):
        yield f"task_embedding_controller.task_to_embeddings.{task}", (branch.task_embeddings, row)
    modules: dict[str, nn.Module] = {
        "task_hypernet.task_embeding_generator.0": branch.projection[0],
        "task_hypernet.task_embeding_generator.2": branch.projection[2],
        "LayerNorm": branch.norm,
    }
    for index, generator in enumerate(branch.generators):
        if branch.layer_embeddings is None:
            names = (
                f"feed_forward_down_sampler_hyper_nets.{index}",
                f"feed_forward_up_sampler_hyper_nets.{index}",
                f"feed_forward_post_layernorm_hypernets.{index}",
            )
        else:
            names = ("down_sampler_hyper_net", "up_sampler_hyper_net", "post_layernorm_hypernet")
        modules |= {
            f"{names[0]}.weight_generator.0": generator.down_weight,
            f"{names[0]}.bias_generator.0": generator.down_bias,
            f"{names[1]}.weight_generator.0": generator.up_weight,
            f"{names[1]}.bias_generator.0": generator.up_bias,
            f"{names[2]}.weight_generator": generator.norm_weight,
            f"{names[2]}.bias_generator": generator.norm_bias,
        }
    for official, module in modules.items():
        for kind, parameter in module.named_parameters():
            yield f"{HYPER}.{official}.{kind}", (parameter, None)
    if branch.layer_embeddings is not None:
        yield f"{HYPER}.layer_id_embeddings.weight", (branch.layer_embeddings, None)


def assert_no_gradient_here_alone(recording: JointRecording, task: str, places: Mapping[str, Place]) -> None:
    """What has no recorded gradient for this task must have none here; a value under several names is recorded under one."""
    recorded, anywhere = (
        {_where(places[name]) for name in found if name in places} for found in (recording.gradients(task), _all(recording))
    )
    for name, (parameter, row) in places.items():
        where = _where((parameter, row))
        if where not in anywhere:  # the file of ProPETL for one task holds no gradients of its scores
            assert recording.variant == "propetl", name
            assert name.endswith("_mask"), name
        elif where not in recorded and parameter.grad is not None:
            assert not (parameter.grad if row is None else parameter.grad[row]).any(), f"{name} has a gradient here alone"


def _where(place: Place) -> tuple[int, int | None]:
    return id(place[0]), place[1]


def _all(recording: JointRecording) -> set[str]:
    return {name for task in recording.tasks for name in recording.gradients(task)}


def compare(recording: JointRecording, task: str, encoder: Encoder) -> Differences:
    branch, places = recording.branch()
    branch.eval()
    head, head_parameters = recording.head(task)
    inputs = {name: recording.tensors[f"in.{task}.{name}"].flatten(0, -2) for name in ("input_ids", "attention_mask")}
    index = recording.tasks.index(task)
    encoder.zero_grad()
    logits = head(encoder(inputs, [branch], [RowBlock(*inputs["input_ids"].shape, seed=0, task=index)]))
    loss = head.loss(logits, recording.tensors[f"in.{task}.labels"])
    loss.backward()
    theirs = recording.gradients(task)
    shared = dict(encoder.model.named_parameters()) | head_parameters
    assert_no_gradient_here_alone(recording, task, places)
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    relative = []
    for name, gradient in theirs.items():
        parameter, row = places.get(name) or (shared[name], None)
        assert parameter.grad is not None, name
        own = parameter.grad if row is None else parameter.grad[row]
        scale = float(gradient.abs().max())
        # The gradient of a key bias is zero in exact arithmetic (softmax ignores a constant), so its recorded entries are rounding.
        relative.append(float((own - gradient).abs().max()) / (scale if scale > 1e-6 * largest else largest))
    logits, loss = logits.detach(), loss.detach()
    return (
        float((logits - recording.tensors[f"out.{task}.logits"]).abs().max()),
        float((loss - recording.tensors[f"out.{task}.loss"]).abs().max()),
        max(relative),
    )


def reproduce(path: Path) -> None:
    recording = JointRecording(path)
    assert recording.variant in JOINT_AND_PROPETL, path.name
    encoder = recording.encoder()
    for task in recording.tasks:
        assert_reproduced(f"{path.name} {task}", compare(recording, task, encoder))
