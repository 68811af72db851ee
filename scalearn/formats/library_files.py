"""Adapters and prediction heads in files of the adapters library: written so that the library reads them, and heads also read."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from adapters.configuration import BnConfig
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.modeling import Adapter
from torch import Tensor, nn

from scalearn.backbone.encoder import SLOT, Encoder, quiet_library
from scalearn.errors import UserError
from scalearn.files.json_files import read_json
from scalearn.files.tensor_files import usual_mode
from scalearn.files.weight_files import read_tensors
from scalearn.formats.adapterhub_layout import WEIGHTS
from scalearn.formats.pickled_tensors import read_pickled
from scalearn.layers.heads import Head, HeadConfig, HeadKind, head_shapes
from scalearn.layers.source_stack import BottleneckWeights, bottleneck_weights
from scalearn.secrets import clause

_HEAD_WEIGHTS = "model_head.safetensors"
_HEAD_PICKLED = "pytorch_model_head.bin"
_PARTS = ("weight", "bias")
_INPUTS = "inputs.json"
"""Our own file beside the library's, for what the library does not save."""


def save_adapter(
    encoder: Encoder,
    directory: Path,
    name: str,
    adapters: Sequence[BottleneckWeights],
    config: BnConfig,
    head: Head | None,
    label_names: Sequence[str] | None = None,
    *,
    pickle_too: bool = False,
) -> None:
    """Write one adapter, and its head, so that `load_adapter` of the adapters library reads it.

    Args:
        encoder: Gives the architecture. It is left as it was.
        directory: Created. It receives `adapter.safetensors` and its configuration.
        name: Name of the adapter. The library loads it under its `library_name`.
        adapters: Weights at each site.
        config: The library's configuration of the adapter. Its width must be that of the weights.
        head: Saved as a prediction head of the same name. None: no head is saved.
        label_names: Names of the head's outputs, in order. Default: the library's own names.
        pickle_too: Whether to write pickled files as well, which `load_adapter` reads by default.

    Raises:
        RuntimeError: The weights have other shapes than `config` gives.
        OSError: The directory cannot be written.
    """
    model, name = encoder.model, library_name(name)
    with quiet_library(), _temporary_adapter(encoder, name, config) as modules:
        for module, weights in zip(modules, adapters, strict=True):
            for own, given in zip(tensors_of(bottleneck_weights(module)), tensors_of(weights), strict=True):
                own.data.copy_(given)
        try:
            if head is not None:
                add_library_head(model, name, head, label_names)
            directory.mkdir(parents=True, exist_ok=True)
            save_library_adapter(model, directory, name, with_head=head is not None)
            if pickle_too:
                model.save_adapter(str(directory), name, with_head=head is not None, use_safetensors=False)
        finally:
            if head is not None and name in model.heads:
                model.delete_head(name)


def save_library_adapter(model: Any, directory: Path, name: str, *, with_head: bool) -> None:
    """Let a model of the adapters library write an adapter, and give the files the usual mode, so that others may read them.

    Raises:
        OSError: The directory cannot be written.
    """
    written = [directory / WEIGHTS, *([directory / _HEAD_WEIGHTS] if with_head else [])]
    with usual_mode(*written):
        model.save_adapter(str(directory), name, with_head=with_head, use_safetensors=True)


def library_name(name: str) -> str:
    """Return a name under which the adapters library can keep an adapter and its head as modules.

    A module's name has no dot, and is not an attribute of every dictionary of modules, such as `type` or `items`, nor the slot's name.
    """
    plain = name.replace(".", "-")
    return f"{plain}-task" if plain == SLOT or hasattr(nn.ModuleDict(), plain) else plain


def add_library_head(model: Any, name: str, head: Head, label_names: Sequence[str] | None = None) -> None:
    """Add a head to a model of the adapters library, as the library's own head of the same shape."""
    settings: dict[str, Any] = {"layers": head.config.layers, "overwrite_ok": True}
    if label_names is not None:
        settings["id2label"] = dict(enumerate(label_names))
    if head.config.kind == "multiple_choice":
        model.add_multiple_choice_head(name, num_choices=head.config.labels, **settings)
    else:
        multilabel = head.config.kind == "multi_label"
        model.add_classification_head(name, num_labels=head.config.labels, multilabel=multilabel, **settings)
    library_head = [module for module in model.heads[name] if isinstance(module, nn.Linear)]
    for index, layer in enumerate(layer for layer in (head.dense, head.out) if layer is not None):
        library_head[index].weight.data.copy_(layer.weight.data)
        library_head[index].bias.data.copy_(layer.bias.data)


def read_library_head(
    directory: Path, hidden: int, *, dropout: float | None = None, allow_pickle: bool = False
) -> tuple[Head, tuple[str, ...] | None]:
    """Read the head that lies beside an adapter.

    Args:
        directory: Directory in AdapterHub layout, with `head_config.json` and `model_head.safetensors`.
        hidden: Hidden size d of the backbone.
        dropout: Rate of the head's dropout, which the library does not save. None: the usual rate.
        allow_pickle: Whether weights in `pytorch_model_head.bin` are accepted. They are read without running code from them.

    Returns:
        The head, in evaluation mode, and the names of its labels if there are any.

    Raises:
        UserError: There is no head, it is damaged, or it is not the library's classification or multiple choice head.
    """
    try:
        saved = read_json(directory / "head_config.json")
        config, name = saved["config"], saved["name"]
        kind = _kind(config)
        labels = int(config["num_choices" if kind == "multiple_choice" else "num_labels"])
        head_config = HeadConfig(kind, labels, dropout, config["layers"])
        places = {"dense": 1, "out": 4} if config["layers"] == 2 else {"out": 1}
        names = {f"heads.{name}.{at}.{part}": f"{own}.{part}" for own, at in places.items() for part in _PARTS}
        shapes = {full: head_shapes(head_config, hidden)[own] for full, own in names.items()}
        pickled = allow_pickle and not (directory / _HEAD_WEIGHTS).is_file()
        tensors = read_pickled(directory / _HEAD_PICKLED, shapes) if pickled else read_tensors(directory / _HEAD_WEIGHTS, shapes)
        head = Head(head_config, hidden)
        head.load_state_dict({own: tensors[full] for full, own in names.items()})
        numbers = {int(number): str(label) for label, number in (config.get("label2id") or {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"The prediction head in {directory} cannot be read ({clause(error)}): save the adapter again, with its head."
        ) from error
    named = numbers and any(label != f"LABEL_{number}" for number, label in numbers.items())
    return head.eval(), tuple(numbers[number] for number in sorted(numbers)) if named else None


def save_head_inputs(directory: Path, task: str, max_length: int, backbone: str) -> None:
    """Write the head's inputs beside an adapter: the task's key, the tokens per input, and the backbone's name."""
    saved = {"task": task, "max_length": max_length, "backbone": backbone}
    (directory / _INPUTS).write_text(json.dumps(saved) + "\n", encoding="utf-8")


def read_backbone_name(directory: Path) -> str | None:
    """Return the name of the backbone that an adapter was trained on. None: no file of ours says it."""
    try:
        name = read_json(directory / _INPUTS).get("backbone")
    except (OSError, ValueError):
        return None
    return name if isinstance(name, str) else None


def read_head_inputs(directory: Path) -> tuple[str, int] | None:
    """Read the task's key and the tokens per input. None: the adapter came from elsewhere.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / _INPUTS
    try:
        saved = read_json(path)
        if type(saved["max_length"]) is not int or saved["max_length"] < 1:
            raise ValueError(f"max_length is {str(saved['max_length'])[:100]}")
        return str(saved["task"]), saved["max_length"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({clause(error)}): remove it to read inputs of up to 128 tokens.") from error


def _kind(config: dict[str, Any]) -> HeadKind:
    if config["layers"] not in (1, 2) or config["activation_function"] != "tanh" or config["use_pooler"]:
        raise ValueError("it has other layers than dense, tanh and linear on the first token")
    if config["head_type"] == "multiple_choice":
        return "multiple_choice"
    if config["head_type"] == "multilabel_classification":
        return "multi_label"
    if config["head_type"] != "classification":
        raise ValueError(f"it is of type {config['head_type']}")
    return "regression" if config["num_labels"] == 1 else "classification"


def forget_adapter(model: Any, name: str) -> None:
    """Remove an adapter from a model of the library, if the model has one of that name."""
    if name in model.adapters_config.adapters:
        model.delete_adapter(name)


def tensors_of(weights: BottleneckWeights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four tensors of an adapter at one layer."""
    return weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias


@contextmanager
def _temporary_adapter(encoder: Encoder, name: str, config: BnConfig) -> Iterator[list[Adapter]]:
    """Add an adapter to the encoder's model while the block runs, without using any random stream."""
    try:
        with torch.random.fork_rng(devices=[]):
            encoder.model.add_adapter(name, config=config)
        modules: list[Adapter] = []

        def collect(layer: BottleneckLayer) -> None:
            if name in layer.adapters:
                modules.append(layer.adapters[name])

        encoder.for_each_bottleneck_layer(collect)
        yield modules
    finally:
        forget_adapter(encoder.model, name)
