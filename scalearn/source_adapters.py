"""Source adapters on disk: read from and written in the layout of the adapters library."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from adapters.configuration import BnConfig
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.modeling import Activation_Function_Class, Adapter
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn

from scalearn.adapter_files import (
    CONFIG,
    PICKLED,
    WEIGHTS,
    adapter_directory,
    read_adapter_config,
    require_agreement,
    weights_file,
)
from scalearn.encoder import SLOT, Encoder, quiet_library
from scalearn.errors import UserError
from scalearn.heads import Head
from scalearn.hub_or_directory import hub_id
from scalearn.layers.source_stack import BottleneckWeights, SourceStack, bottleneck_weights


@dataclass(frozen=True)
class SourceAdapters:
    """Frozen source adapters of one backbone, stacked per site."""

    names: tuple[str, ...]
    stacks: tuple[SourceStack, ...]
    config: Mapping[str, Any]
    """The adapter configuration that all sources share."""
    similarity: Mapping[str, float] = field(default_factory=dict)
    """By source: how similar its task is to the job's, for methods that weigh sources by it."""

    @property
    def width(self) -> int:
        """Bottleneck width r of one source."""
        return self.stacks[0].up_weight.shape[2]


def load_source_adapters(encoder: Encoder, directories: Mapping[str, str | Path], *, allow_pickle: bool = False) -> SourceAdapters:
    """Loads, checks and stacks source adapters.

    Args:
        encoder: The backbone that they were trained on.
        directories: Name of each source and where it lies: a job's directory, a directory in AdapterHub layout, or a hub id. Order is
            kept: omega's rows follow it.
        allow_pickle: Whether weights in `pytorch_adapter.bin` are accepted.

    Returns:
        The sources in the given order, on the encoder's device.

    Raises:
        UserError: A source is absent, pickled, damaged, of another hidden size, of a kind that cannot be added up, or
            configured differently from the others.
    """
    if not directories:
        raise UserError("No source adapters were named: a transfer method needs at least one.")
    resolved = {name: _resolve(name, place, allow_pickle) for name, place in directories.items()}
    configs = {name: read_adapter_config(name, directory, encoder.hidden_size) for name, directory in resolved.items()}
    require_agreement(configs)
    layers: list[list[BottleneckWeights]] = [[] for _ in range(encoder.sites)]
    for name, directory in resolved.items():
        for site, weights in enumerate(_read_weights(encoder, name, directory)):
            layers[site].append(weights)
    config = next(iter(configs.values()))
    activation = Activation_Function_Class(config["non_linearity"]).f
    stacks = tuple(SourceStack(sources, activation).to(encoder.device) for sources in layers)
    return SourceAdapters(tuple(resolved), stacks, config)


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
    """Writes one adapter, and its head, so that `load_adapter` of the adapters library reads it.

    Args:
        encoder: Gives the architecture; left as it was.
        directory: Created; `adapter.safetensors` and its configuration go there.
        name: What the adapter is called; the library loads it under `library_name` of it.
        adapters: Weights per site.
        config: The library's configuration of the adapter; its width must be that of the weights.
        head: Saved as a prediction head of the same name. None: none is saved.
        label_names: What the head predicts, in the order of its outputs. Default: the library's own names.
        pickle_too: Whether to write the library's pickled files as well, which are what `load_adapter` reads unless it is told otherwise.

    Raises:
        RuntimeError: The weights have another shape than `config` says.
        OSError: The directory cannot be written.
    """
    model, name = encoder.model, library_name(name)
    with quiet_library(), _temporary_adapter(encoder, name, config) as modules:
        for module, weights in zip(modules, adapters, strict=True):
            for own, given in zip(_tensors(bottleneck_weights(module)), _tensors(weights), strict=True):
                own.data.copy_(given)
        try:
            if head is not None:
                add_library_head(model, name, head, label_names)
            directory.mkdir(parents=True, exist_ok=True)
            for safe in (True, False) if pickle_too else (True,):
                model.save_adapter(str(directory), name, with_head=head is not None, use_safetensors=safe)
        finally:
            if head is not None and name in model.heads:
                model.delete_head(name)


def library_name(name: str) -> str:
    """A name under which the adapters library can keep an adapter and its head, which are modules there.

    A module's name has no dot, and is no attribute that every dictionary of modules has, such as `type` or `items`; nor is it the slot's.
    """
    plain = name.replace(".", "-")
    return f"{plain}-task" if plain == SLOT or hasattr(nn.ModuleDict(), plain) else plain


def add_library_head(model: Any, name: str, head: Head, label_names: Sequence[str] | None = None) -> None:
    """Adds a head to one of the adapters library's models, as that library's own head of the same shape."""
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


@contextmanager
def _temporary_adapter(encoder: Encoder, name: str, config: BnConfig) -> Iterator[list[Adapter]]:
    """Adds an adapter to the encoder's model for as long as the block runs, without touching any random stream."""
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
        _forget(encoder.model, name)


def _resolve(name: str, place: str | Path, allow_pickle: bool) -> Path:
    directory = adapter_directory(place)
    if not directory.is_dir():
        directory = _download(name, str(place))
    weights_file(name, directory, allow_pickle=allow_pickle)
    return directory


def _download(name: str, identifier: str) -> Path:
    found = hub_id(identifier)
    if found is None:
        raise UserError(
            f"Source adapter '{name}': {identifier} is neither a directory nor a hub id: give a directory that save_adapter wrote."
        )
    try:
        return Path(snapshot_download(found.repository, revision=found.revision, allow_patterns=[CONFIG, WEIGHTS, PICKLED]))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Source adapter '{name}': {identifier} is neither a directory nor a reachable hub id ({reason}).") from error


def _read_weights(encoder: Encoder, name: str, directory: Path) -> list[BottleneckWeights]:
    """Loads one adapter through the library and copies its weights out."""
    model, temporary = encoder.model, f"source-{name}".replace(".", "-")
    info: dict[str, Any] = {}
    try:
        with quiet_library(), torch.random.fork_rng(devices=[]):
            model.load_adapter(
                str(directory), load_as=temporary, with_head=False, set_active=False, use_safetensors=True, loading_info=info
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        _forget(model, temporary)
        reason = str(error).splitlines()[0]
        raise UserError(f"Source adapter '{name}': the weights in {directory} cannot be read ({reason}); save it again.") from error
    collected: list[BottleneckWeights] = []

    def collect(layer: BottleneckLayer) -> None:
        if temporary in layer.adapters:
            own = bottleneck_weights(layer.adapters[temporary])
            collected.append(BottleneckWeights(*(tensor.detach().clone() for tensor in _tensors(own))))

    encoder.for_each_bottleneck_layer(collect)
    _forget(model, temporary)
    missing, unexpected = len(info.get("missing_keys", ())), len(info.get("unexpected_keys", ()))
    if missing or unexpected or len(collected) != encoder.sites:
        raise UserError(
            f"Source adapter '{name}': {directory} lacks {missing} of the tensors that this backbone needs and has {unexpected} that it "
            "does not: train it on this backbone."
        )
    return collected


def _tensors(weights: BottleneckWeights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias


def _forget(model: Any, name: str) -> None:
    if name in model.adapters_config.adapters:
        model.delete_adapter(name)
