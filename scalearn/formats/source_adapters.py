"""Find, check and read the source adapters that jobs stack, from the layout of the adapters library or of PEFT."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.methods.modeling import Activation_Function_Class
from safetensors import SafetensorError, safe_open
from torch import nn

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.origin import hub_id
from scalearn.errors import UserError
from scalearn.files.tensor_files import read_header
from scalearn.formats.adapter_tensors import Size, require_plausible_file, tensors_by_layer
from scalearn.formats.adapterhub_layout import (
    CONFIG,
    PICKLED,
    WEIGHTS,
    adapter_directory,
    own_name,
    read_adapter_config,
    require_agreement,
    require_architecture,
    saved_for,
    unusable_weights,
    weights_file,
)
from scalearn.formats.hub_directory import download
from scalearn.formats.library_files import tensors_of
from scalearn.formats.lora_files import LoraSources, read_loras
from scalearn.formats.peft_layout import WEIGHTS as LORA_WEIGHTS
from scalearn.formats.peft_layout import is_peft
from scalearn.formats.pickled_tensors import read_pickled, shapes_of
from scalearn.layers.source_stack import Activation, BottleneckWeights, SourceStack


@dataclass(frozen=True)
class SourceAdapters:
    """Frozen source adapters of one backbone, stacked per site."""

    names: tuple[str, ...]
    stacks: tuple[SourceStack, ...]
    config: Mapping[str, Any]
    """The adapter configuration that all sources share."""
    similarity: Mapping[str, float] = field(default_factory=dict)
    """How similar the task of each source is to the job's, for methods that weigh sources by it."""
    lora: LoraSources | None = None
    """Where the sources add, if they are LoRAs. None: they are bottleneck adapters after the feed-forward blocks."""

    @property
    def modules(self) -> tuple[str, ...] | None:
        """The linear modules that are the sites. None: the sites are after the feed-forward blocks."""
        return self.lora.modules if self.lora is not None else None

    @property
    def parameters(self) -> int:
        """Parameters of all sources together, as their files hold them."""
        if self.lora is None:
            return sum(buffer.numel() for stack in self.stacks for buffer in stack.buffers())
        sizes = [stack.down_weight.shape[1] + stack.up_weight.shape[0] for stack in self.stacks]
        return sum(rank * size for ranks in self.lora.ranks for rank, size in zip(ranks, sizes, strict=True))

    @property
    def width(self) -> int:
        """Bottleneck width r of one source."""
        return self.stacks[0].up_weight.shape[2]


def load_source_adapters(
    encoder: Encoder, directories: Mapping[str, str | Path], *, allow_pickle: bool = False, method: str | None = None
) -> SourceAdapters:
    """Load, check and stack source adapters.

    Args:
        encoder: The backbone on which they were trained.
        directories: The place of each source by name: a job's directory, a directory in AdapterHub's or PEFT's layout, or a hub id. The
            order is kept, and the rows of omega follow it.
        allow_pickle: Whether weights in `pytorch_adapter.bin` are accepted.
        method: What all of them are, `adapter` or `lora`. None: what the first one is.

    Returns:
        The sources in the given order, on the encoder's device.

    Raises:
        UserError: A source is absent, pickled, damaged, not finite, of another hidden size or architecture, of a kind that cannot be
            added up, or has another configuration than the others.
    """
    if not directories:
        raise UserError("No source adapters were named: a transfer method needs at least one.")
    resolved = {name: _resolve(name, place) for name, place in directories.items()}
    if method == "lora" or (method is None and is_peft(next(iter(resolved.values())))):
        stacked, lora = read_loras(encoder, resolved)
        _warn_of_other_models(encoder, resolved)
        return SourceAdapters(tuple(resolved), stacked, {}, lora=lora)
    if not encoder.takes_adapters:
        raise UserError(
            f"Bottleneck adapters need an encoder of the adapters library, but the backbone is of architecture "
            f"'{encoder.config.model_type}': stack LoRAs."
        )
    for name, directory in resolved.items():
        weights_file(name, directory, allow_pickle=allow_pickle)
    configs = {name: read_adapter_config(name, directory, encoder.hidden_size) for name, directory in resolved.items()}
    require_architecture(resolved, encoder.config.model_type)
    _warn_of_other_models(encoder, resolved)
    require_agreement(configs)
    layers: list[list[BottleneckWeights]] = [[] for _ in range(encoder.sites)]
    for name, directory in resolved.items():
        size = Size.of(encoder.hidden_size, configs[name]["reduction_factor"])
        for site, weights in enumerate(_read_weights(encoder, name, directory, size, allow_pickle=allow_pickle)):
            layers[site].append(weights)
    first, config = next(iter(configs.items()))
    activation = _activation(first, config["non_linearity"])
    stacks = tuple(SourceStack(sources, activation).to(encoder.device) for sources in layers)
    return SourceAdapters(tuple(resolved), stacks, config)


def _activation(name: str, non_linearity: str) -> Activation:
    """Return the library's activation of that name. One that learns is refused, since a source does not bring its weights."""
    try:
        activation: Activation = Activation_Function_Class(non_linearity).f
    except KeyError as error:
        raise UserError(f"Source adapter '{name}': non_linearity {non_linearity[:80]!r} is no activation that transformers has.") from error
    if isinstance(activation, nn.Module) and any(True for _ in activation.parameters()):
        raise UserError(f"Source adapter '{name}': non_linearity {non_linearity!r} has weights of its own: train it with config seq_bn.")
    return activation


def _warn_of_other_models(encoder: Encoder, directories: Mapping[str, Path]) -> None:
    """Warn of sources of another hub model than the backbone.

    A name without owner, as old hub ids are, matches any owner. A backbone from a directory counts as the hub model that the directory is
    called like.
    """
    place = str(encoder.config.name_or_path)
    own = hub_id(place)
    for name, directory in directories.items():
        written = saved_for(directory).model
        theirs = hub_id(written)
        if own is None:
            same = theirs is None or theirs.repository.rpartition("/")[2] == Path(place).name
        else:
            theirs = theirs or hub_id(f"{own.repository.partition('/')[0]}/{written}")
            same = theirs is None or theirs.repository == own.repository
        if not same:
            called = own.repository if own is not None else place or "the backbone"
            warnings.warn(f"Source adapter '{name}' was trained on {written}: make sure that {called} has the same weights.", stacklevel=3)


def _resolve(name: str, place: str | Path) -> Path:
    directory = adapter_directory(place)
    return directory if directory.is_dir() else download(str(place), f"Source adapter '{name}'", (CONFIG, WEIGHTS, PICKLED, LORA_WEIGHTS))


def _read_weights(encoder: Encoder, name: str, directory: Path, size: Size, *, allow_pickle: bool) -> list[BottleneckWeights]:
    """Read one adapter's weights in the order of the encoder's sites, after checking their names, types and shapes."""
    path = weights_file(name, directory, allow_pickle=allow_pickle)
    try:
        require_plausible_file(path, size, encoder.sites)
        if path.name == WEIGHTS:
            found = tensors_by_layer(read_header(path), own_name(name, directory), size)
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for parts in found.values() for key in parts.values()}
        else:
            tensors = read_pickled(path)
            found = tensors_by_layer(shapes_of(tensors), own_name(name, directory), size)
        places = _places(encoder, set(found))
    except (OSError, ValueError, SafetensorError) as error:
        raise unusable_weights(name, directory, error) from error
    weights = [BottleneckWeights(*(tensors[found[place][part]].float() for part in size.shapes)) for place in places]
    if not all(bool(tensor.isfinite().all()) for site in weights for tensor in tensors_of(site)):
        raise UserError(f"Source adapter '{name}': the weights in {directory} hold NaN or infinity: train it again.")
    return weights


def _places(encoder: Encoder, found: set[str]) -> list[str]:
    """Return the places of the encoder's sites in a file, which was written from the whole model or from its part below the heads.

    Raises:
        ValueError: The file has an adapter at other places. The message is a clause.
    """
    own = encoder.site_names
    whole = [f"{encoder.model.base_model_prefix}.{place}" for place in own]
    places = whole if found & set(whole) else own
    missing, unexpected = sorted(set(places) - found), sorted(found - set(places))
    if unexpected:
        raise ValueError(f"it has an adapter at {unexpected[0][:120]!r}, where this backbone has none")
    if missing:
        raise ValueError(f"it has no adapter at {missing[0]!r}, nor at {len(missing) - 1} more of this backbone's places")
    return places
