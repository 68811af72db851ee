"""Source adapters as jobs stack them: found, checked and read from the layout of the adapters library."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.modeling import Activation_Function_Class
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from scalearn.adapter_files import (
    CONFIG,
    PICKLED,
    WEIGHTS,
    adapter_directory,
    read_adapter_config,
    require_agreement,
    require_architecture,
    saved_for,
    weights_file,
)
from scalearn.encoder import Encoder, quiet_library
from scalearn.errors import UserError
from scalearn.hub_or_directory import hub_id
from scalearn.layers.source_stack import BottleneckWeights, SourceStack, bottleneck_weights
from scalearn.library_files import forget_adapter, tensors_of


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
        UserError: A source is absent, pickled, damaged, of another hidden size or architecture, of a kind that cannot be added up,
            not finite, or configured differently from the others.
    """
    if not directories:
        raise UserError("No source adapters were named: a transfer method needs at least one.")
    resolved = {name: _resolve(name, place, allow_pickle) for name, place in directories.items()}
    configs = {name: read_adapter_config(name, directory, encoder.hidden_size) for name, directory in resolved.items()}
    require_architecture(resolved, encoder.config.model_type)
    _warn_of_other_models(encoder, resolved)
    require_agreement(configs)
    layers: list[list[BottleneckWeights]] = [[] for _ in range(encoder.sites)]
    for name, directory in resolved.items():
        for site, weights in enumerate(_read_weights(encoder, name, directory)):
            layers[site].append(weights)
    config = next(iter(configs.values()))
    activation = Activation_Function_Class(config["non_linearity"]).f
    stacks = tuple(SourceStack(sources, activation).to(encoder.device) for sources in layers)
    return SourceAdapters(tuple(resolved), stacks, config)


def _warn_of_other_models(encoder: Encoder, directories: Mapping[str, Path]) -> None:
    """Warns of sources of another hub model than the backbone; a name without owner, as the hub had once, is that of any owner."""
    own = hub_id(str(encoder.config.name_or_path))
    if own is None:
        return
    for name, directory in directories.items():
        written = saved_for(directory).model
        theirs = hub_id(written if "/" in written else f"{own.repository.partition('/')[0]}/{written}")
        if theirs is not None and theirs.repository != own.repository:
            warnings.warn(
                f"Source adapter '{name}' was trained on {written}: make sure that {own.repository} has the same weights.", stacklevel=3
            )


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
        forget_adapter(model, temporary)
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"Source adapter '{name}': the weights in {directory} cannot be read ({reason}); save it again.") from error
    collected: list[BottleneckWeights] = []

    def collect(layer: BottleneckLayer) -> None:
        if temporary in layer.adapters:
            own = bottleneck_weights(layer.adapters[temporary])
            collected.append(BottleneckWeights(*(tensor.detach().clone() for tensor in tensors_of(own))))

    encoder.for_each_bottleneck_layer(collect)
    forget_adapter(model, temporary)
    missing, unexpected = len(info.get("missing_keys", ())), len(info.get("unexpected_keys", ()))
    if missing or unexpected or len(collected) != encoder.sites:
        raise UserError(
            f"Source adapter '{name}': {directory} lacks {missing} of the tensors that this backbone needs and has {unexpected} that it "
            "does not: train it on this backbone."
        )
    if not all(bool(tensor.isfinite().all()) for weights in collected for tensor in tensors_of(weights)):
        raise UserError(f"Source adapter '{name}': the weights in {directory} hold NaN or infinity: train it again.")
    return collected
