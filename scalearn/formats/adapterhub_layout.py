"""Adapters in AdapterHub layout, checked by their files only: what identifies them, and which can be stacked together.

What identifies LoRAs is here too. Their layout is PEFT's: `scalearn.formats.peft_layout`.

Planning imports this module, so it imports neither torch nor the adapters library, and touches no network.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from scalearn.backbone.origin import content_origin, hub_id, local_directory
from scalearn.config import ExternalAdapter
from scalearn.errors import UserError
from scalearn.files.json_files import read_json
from scalearn.files.tensor_files import LARGEST, read_header
from scalearn.formats import peft_layout
from scalearn.formats.adapter_tensors import Size, require_plausible_file, tensors_by_layer
from scalearn.secrets import clause

CONFIG = "adapter_config.json"
WEIGHTS = "adapter.safetensors"
PICKLED = "pytorch_adapter.bin"

SEQ_BN: Mapping[str, Any] = MappingProxyType(
    {
        "mh_adapter": False,
        "output_adapter": True,
        "reduction_factor": 16,
        "non_linearity": "relu",
        "original_ln_before": True,
        "original_ln_after": True,
        "ln_before": False,
        "ln_after": False,
        "init_weights": "bert",
        "init_weights_seed": None,
        "is_parallel": False,
        "scaling": 1.0,
        "use_gating": False,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "inv_adapter": None,
        "inv_adapter_reduction_factor": None,
        "cross_adapter": False,
        "leave_out": [],
        "dropout": 0.0,
        "phm_layer": False,
        "phm_dim": 4,
        "factorized_phm_W": True,
        "shared_W_phm": False,
        "shared_phm_rule": True,
        "factorized_phm_rule": False,
        "phm_c_init": "normal",
        "phm_init_range": 0.0001,
        "learn_phm": True,
        "hypercomplex_nonlinearity": "glorot-uniform",
        "phm_rank": 1,
        "phm_bias": True,
        "stochastic_depth": 0.0,
    }
)
"""The library's configuration `seq_bn`. All sources trained here have it, and fields that older files lack have its values."""

_UNFOLDABLE = ("ln_before", "ln_after", "use_gating", "is_parallel", "phm_layer", "inv_adapter", "cross_adapter", "mh_adapter")
"""Configuration fields that must be off. With them, a source is more than `U f(D x + a) + b` at one place per layer."""
_PLACEMENT = ("original_ln_before", "original_ln_after", "residual_before_ln", "adapter_residual_before_ln", "leave_out")
"""Fields for the place of an adapter. They must have the values of `seq_bn`, since the slot has its place."""
_IRRELEVANT = ("init_weights", "init_weights_seed", "dropout", "stochastic_depth")
"""Fields that describe how a source was trained, not what it computes."""
_WIDEST = 2**16
"""A larger hidden size than that of any encoder."""
_OF_OLD_FILES = ("attention_type", "new_attention_norm", "invertible_adapter")
"""Fields that the library's first versions always wrote, whether the adapter had such a part or not. The weights tell."""


class SavedFor(NamedTuple):
    """What an adapter was trained on, by its file. Fields that the file lacks are empty."""

    architecture: str
    """`model_type` of the backbone's configuration."""
    model: str
    """A hub id, which may lack the owner, or a directory."""


def external_adapter(name: str, place: str, *, allow_pickle: bool = False) -> ExternalAdapter:
    """Return what identifies an adapter: the content of its files, or a hub id and revision as written.

    Args:
        name: Name under which it is stacked.
        place: A directory in AdapterHub's or PEFT's layout, the directory of a finished job, or a hub id `owner/adapter[@revision]`. A
            directory wins over a hub id of the same spelling only if it exists.
        allow_pickle: Whether weights in `pytorch_adapter.bin` are accepted.

    Raises:
        UserError: It is neither a directory nor a hub id, or the directory lacks a file or holds pickled weights.
    """
    directory = local_directory(place)
    if directory is None:
        found = hub_id(place)
        if found is None:
            raise UserError(
                f"Source adapter '{name}': {place} is neither a directory nor a hub id: give a directory that save_adapter wrote."
            )
        return ExternalAdapter(name, found.origin, place)
    inside = adapter_directory(directory.absolute())
    return ExternalAdapter(name, _origin(name, inside, allow_pickle), str(inside))


def require_unchanged(adapter: ExternalAdapter, directory: Path, *, allow_pickle: bool) -> None:
    """Refuse a directory whose content has changed since the job was planned, since the result would have a wrong identity.

    Raises:
        UserError: It has changed.
    """
    if adapter.origin.startswith("files:") and _origin(adapter.name, directory, allow_pickle) != adapter.origin:
        raise UserError(f"Source adapter '{adapter.name}': {directory} has changed since this job was planned: run the sweep again.")


def adapter_directory(place: str | Path) -> Path:
    """Return the adapter's directory for a place, which may be a job's directory or a directory in AdapterHub layout."""
    inside = Path(place) / "adapter"
    return inside if inside.is_dir() else Path(place)


def weights_file(name: str, directory: Path, *, allow_pickle: bool) -> Path:
    """Return the file that holds an adapter's weights.

    Raises:
        UserError: Configuration or weights are missing, or the weights are pickled but must not be.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"Source adapter '{name}': {directory} holds no {CONFIG}; give a directory that save_adapter wrote.")
    _refuse_peft(name, directory)
    if (directory / WEIGHTS).is_file():
        return directory / WEIGHTS
    if not (directory / PICKLED).is_file():
        raise UserError(f"Source adapter '{name}': {directory} holds no {WEIGHTS}; save it with use_safetensors=True.")
    if not allow_pickle:
        raise UserError(
            f"Source adapter '{name}': {directory} holds pickled weights ({PICKLED}), which can run code when read; "
            "save it with use_safetensors=True, or write allow_pickle: true if you trust it."
        )
    return directory / PICKLED


def read_adapter_config(name: str, directory: Path, hidden_size: int | None) -> dict[str, Any]:
    """Return an adapter's configuration, if the adapter can be stacked.

    Args:
        name: Name under which it is stacked.
        directory: Directory with `adapter_config.json`.
        hidden_size: Hidden size of the backbone. None: not known yet.

    Raises:
        UserError: It is damaged, has another hidden size, or is not a plain sequential bottleneck at the place of `seq_bn`.
    """
    path = directory / CONFIG
    _refuse_peft(name, directory)
    config, hidden, _ = _read(name, directory)
    if hidden_size is not None and hidden != hidden_size:
        raise UserError(f"Source adapter '{name}' has hidden size {hidden}, but the backbone has {hidden_size}: train it on this backbone.")
    unusable = [field for field in _UNFOLDABLE if config.get(field)]
    if unusable or "reduction_factor" not in config or not config.get("output_adapter", False):
        what = ", ".join(f"{field}: {config[field]}" for field in unusable) or "no bottleneck after the feed-forward block"
        raise UserError(f"Source adapter '{name}' is not a plain sequential bottleneck adapter ({what}): train it with config seq_bn.")
    reduction = config["reduction_factor"]
    if isinstance(reduction, Mapping):
        raise UserError(
            f"Source adapter '{name}' has layers of different widths (reduction_factor: {str(reduction)[:100]}): train it with one number."
        )
    if isinstance(reduction, bool) or not isinstance(reduction, int | float) or not 0 < reduction < math.inf:
        raise UserError(f"Source adapter '{name}': {path} says reduction_factor: {reduction!r}, which is no number above 0; save it again.")
    if hidden / reduction > LARGEST:
        raise UserError(
            f"Source adapter '{name}': {path} says reduction_factor: {reduction!r}, an adapter that no file holds; save it again."
        )
    misplaced = [field for field in _PLACEMENT if field in config and config[field] != SEQ_BN[field]]
    if misplaced:
        what = ", ".join(f"{field}: {config[field]}" for field in misplaced)
        raise UserError(f"Source adapter '{name}' does not sit where seq_bn does ({what}): train it with config seq_bn.")
    if config.get("scaling", 1.0) != 1.0:
        raise UserError(f"Source adapter '{name}' scales its output by {config['scaling']}: only scaling 1.0 can be combined.")
    merged = {**SEQ_BN, **{field: value for field, value in config.items() if field not in _OF_OLD_FILES}}
    if not isinstance(merged["non_linearity"], str):
        raise UserError(f"Source adapter '{name}': {path} says non_linearity: {merged['non_linearity']!r}, which is no activation.")
    return merged


def require_fitting_weights(name: str, directory: Path, *, layers: int | None = None, allow_pickle: bool = False) -> None:
    """Refuse weights that are not those of a sequential bottleneck, before they are read. For pickled ones only the size is checked.

    Args:
        name: Name under which the adapter is stacked.
        directory: Directory with configuration and weights.
        layers: Number of the backbone's sites. None: not known yet.
        allow_pickle: Whether weights in `pytorch_adapter.bin` are accepted.

    Raises:
        UserError: They are pickled but must not be, larger than the configuration explains, damaged, or hold another tensor.
    """
    config = read_adapter_config(name, directory, None)
    _, hidden, own_name = _read(name, directory)
    path, size = weights_file(name, directory, allow_pickle=allow_pickle), Size.of(hidden, config["reduction_factor"])
    try:
        require_plausible_file(path, size, layers)
        if path.name != WEIGHTS:
            return
        found = len(tensors_by_layer(read_header(path), own_name, size))
        if layers is not None and found != layers:
            raise ValueError(f"there is an adapter in {found} layers, but the backbone has {layers}")
    except (OSError, ValueError) as error:
        raise unusable_weights(name, directory, error) from error


def unusable_weights(name: str, directory: Path, error: Exception) -> UserError:
    """Return the error for weights that cannot be stacked."""
    return UserError(
        f"Source adapter '{name}': the weights in {directory} cannot be used ({clause(error)}); "
        "train it on this backbone with config seq_bn."
    )


def own_name(name: str, directory: Path) -> str:
    """Return an adapter's name within the names of its tensors."""
    return _read(name, directory)[2]


def saved_for(directory: Path) -> SavedFor:
    """Return what an adapter was trained on, as far as its configuration tells."""
    try:
        saved = read_json(directory / CONFIG)
        return SavedFor(str(saved.get("model_type") or ""), str(saved.get("model_name") or saved.get("base_model_name_or_path") or ""))
    except (OSError, ValueError, AttributeError):
        return SavedFor("", "")


def library_kind(directory: Path) -> str | None:
    """Return the library's method of an adapter that only the library can run. None: the adapter is of another kind."""
    try:
        config = read_json(directory / CONFIG)["config"]
        if config.get("phm_layer"):
            return "a Compacter++"
        return "an (IA)³" if config.get("architecture") == "lora" and config.get("composition_mode") == "scale" else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def require_agreement(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse sources whose computations differ.

    Args:
        configs: Configurations of `read_adapter_config`, by name of the source.

    Raises:
        UserError: Two sources differ in more than their training. The sentence names both.
    """
    first_name, first = next(iter(configs.items()))
    for name, config in configs.items():
        differing = sorted(field for field in {*first, *config} if field not in _IRRELEVANT and first.get(field) != config.get(field))
        if differing:
            details = ", ".join(f"{field} {first.get(field)!r} and {config.get(field)!r}" for field in differing)
            raise UserError(f"Source adapters '{first_name}' and '{name}' are configured differently ({details}): train them alike.")


def require_architecture(directories: Mapping[str, Path], architecture: str | None) -> None:
    """Refuse adapters of another architecture than the backbone's, since tensors of equal names and shapes would still load.

    Args:
        directories: The directory of each adapter, by name.
        architecture: The backbone's architecture. None: not known yet, so the adapters are compared with each other.

    Raises:
        UserError: An adapter has another architecture. The sentence names it and both architectures.
    """
    written = {name: saved_for(directory).architecture for name, directory in directories.items()}
    known = {name: own for name, own in written.items() if own}
    for name, own in known.items():
        if architecture is not None and own != architecture:
            raise UserError(f"Source adapter '{name}' was trained on {own}, but the backbone is {architecture}: train it on this backbone.")
        first_name, first = next(iter(known.items()))
        if own != first:
            raise UserError(
                f"Source adapters '{first_name}' and '{name}' were trained on different architectures ({first} and {own}): "
                "train them on one backbone."
            )


def _origin(name: str, directory: Path, allow_pickle: bool) -> str:
    if peft_layout.is_peft(directory):
        peft_layout.lora_parts(name, directory, None)
        return content_origin([directory / CONFIG, peft_layout.lora_weights(name, directory)])
    weights = weights_file(name, directory, allow_pickle=allow_pickle)
    require_fitting_weights(name, directory, allow_pickle=allow_pickle)
    return content_origin([directory / CONFIG, weights])


def _refuse_peft(name: str, directory: Path) -> None:
    if peft_layout.is_peft(directory):
        raise UserError(
            f"Source adapter '{name}': {directory} is in PEFT's layout, but the sources are adapters of AdapterHub: "
            "write sources: {method: lora} to stack LoRAs."
        )


def _read(name: str, directory: Path) -> tuple[dict[str, Any], int, str]:
    """Return an adapter's configuration, its hidden size, and its name within the names of its tensors."""
    path = directory / CONFIG
    try:
        saved = read_json(path)
        config, hidden, own = saved["config"], saved["hidden_size"], saved.get("name", "")
        if not isinstance(config, dict) or type(hidden) is not int or not 0 < hidden <= _WIDEST or not isinstance(own, str):
            raise ValueError(f"config must be a mapping, hidden_size a whole number from 1 to {_WIDEST}, name a word")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"Source adapter '{name}': {path} is no adapter configuration ({error}); save the adapter again.") from error
    return config, hidden, own
