"""Adapters that lie in AdapterHub layout, judged by their files alone: what identifies them, and which can be stacked with which.

Planning imports this module, so it imports neither torch nor the adapters library, and touches no network.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from scalearn.config import ExternalAdapter
from scalearn.errors import UserError
from scalearn.hub_or_directory import content_origin, hub_id, local_directory

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
"""The library's configuration `seq_bn`: that of every source that is trained here, and what a field means that an older file lacks."""

_UNFOLDABLE = ("ln_before", "ln_after", "use_gating", "is_parallel", "phm_layer", "inv_adapter", "cross_adapter", "mh_adapter")
"""Configuration fields that must be off: with them a source is more than `U f(D x + a) + b` at one place per layer."""
_PLACEMENT = ("original_ln_before", "original_ln_after", "residual_before_ln", "adapter_residual_before_ln", "leave_out")
"""Fields that say where an adapter sits; the slot sits where `seq_bn` does, so they must have its values."""
_IRRELEVANT = ("init_weights", "init_weights_seed", "dropout", "stochastic_depth")
"""Fields that say how a source was trained, not what it computes."""


class SavedFor(NamedTuple):
    """What a file says that its adapter was trained on; empty where it does not."""

    architecture: str
    """`model_type` of the backbone's configuration."""
    model: str
    """A hub id, perhaps without owner, or a directory."""


def external_adapter(name: str, place: str, *, allow_pickle: bool = False) -> ExternalAdapter:
    """Return what identifies an adapter: the content of its files, or a hub id and revision as they are written.

    Args:
        name: Under which it is stacked.
        place: A directory in AdapterHub layout, that of a finished job, or a hub id `owner/adapter[@revision]`. A directory wins over
            a hub id of the same spelling only where it exists.
        allow_pickle: Whether weights in `pytorch_adapter.bin` are accepted.

    Raises:
        UserError: Neither a directory nor a hub id, or a directory that lacks a file or holds pickled weights.
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
    """Refuse a directory whose content is another than when the job was planned: its result would bear the wrong identity.

    Raises:
        UserError: It is.
    """
    if adapter.origin.startswith("files:") and _origin(adapter.name, directory, allow_pickle) != adapter.origin:
        raise UserError(f"Source adapter '{adapter.name}': {directory} has changed since this job was planned: run the sweep again.")


def adapter_directory(place: str | Path) -> Path:
    """Return where the adapter lies that `place` names: a job's directory, or a directory in AdapterHub layout."""
    inside = Path(place) / "adapter"
    return inside if inside.is_dir() else Path(place)


def weights_file(name: str, directory: Path, *, allow_pickle: bool) -> Path:
    """Return the file that holds an adapter's weights.

    Raises:
        UserError: Configuration or weights are missing, or the weights are pickled and may not be.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"Source adapter '{name}': {directory} holds no {CONFIG}; give a directory that save_adapter wrote.")
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
    """Return an adapter's configuration, if it is one that can be stacked.

    Args:
        name: Under which it is stacked.
        directory: Holds `adapter_config.json`.
        hidden_size: Of the backbone. None: not known yet.

    Raises:
        UserError: It is damaged, of another hidden size, or not a plain sequential bottleneck where `seq_bn` has it.
    """
    path = directory / CONFIG
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        config, hidden = dict(saved["config"]), int(saved["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"Source adapter '{name}': {path} is no adapter configuration ({error}); save the adapter again.") from error
    if hidden_size is not None and hidden != hidden_size:
        raise UserError(f"Source adapter '{name}' has hidden size {hidden}, but the backbone has {hidden_size}: train it on this backbone.")
    unusable = [field for field in _UNFOLDABLE if config.get(field)]
    if unusable or "reduction_factor" not in config or not config.get("output_adapter", False):
        what = ", ".join(f"{field}: {config[field]}" for field in unusable) or "no bottleneck after the feed-forward block"
        raise UserError(f"Source adapter '{name}' is not a plain sequential bottleneck adapter ({what}): train it with config seq_bn.")
    reduction = config["reduction_factor"]
    if isinstance(reduction, Mapping):
        raise UserError(
            f"Source adapter '{name}' has layers of different widths (reduction_factor: {reduction}): train it with one number."
        )
    if isinstance(reduction, bool) or not isinstance(reduction, int | float) or not 0 < reduction < math.inf:
        raise UserError(f"Source adapter '{name}': {path} says reduction_factor: {reduction!r}, which is no number above 0; save it again.")
    misplaced = [field for field in _PLACEMENT if field in config and config[field] != SEQ_BN[field]]
    if misplaced:
        what = ", ".join(f"{field}: {config[field]}" for field in misplaced)
        raise UserError(f"Source adapter '{name}' does not sit where seq_bn does ({what}): train it with config seq_bn.")
    if config.get("scaling", 1.0) != 1.0:
        raise UserError(f"Source adapter '{name}' scales its output by {config['scaling']}: only scaling 1.0 can be combined.")
    return {**SEQ_BN, **config}


def saved_for(directory: Path) -> SavedFor:
    """Return what an adapter was trained on, as far as its configuration says so."""
    try:
        saved = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        return SavedFor(str(saved.get("model_type") or ""), str(saved.get("model_name") or ""))
    except (OSError, ValueError, AttributeError):
        return SavedFor("", "")


def library_kind(directory: Path) -> str | None:
    """Return which of the library's own methods an adapter is of, where it is one of those that only the library runs. None: another."""
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))["config"]
        if config.get("phm_layer"):
            return "a Compacter++"
        return "an (IA)³" if config.get("architecture") == "lora" and config.get("composition_mode") == "scale" else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def require_agreement(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse sources that compute differently.

    Args:
        configs: As `read_adapter_config` returns them, by name of the source.

    Raises:
        UserError: Two of them differ in more than how they were trained; the sentence names both.
    """
    first_name, first = next(iter(configs.items()))
    for name, config in configs.items():
        differing = sorted(field for field in {*first, *config} if field not in _IRRELEVANT and first.get(field) != config.get(field))
        if differing:
            details = ", ".join(f"{field} {first.get(field)!r} and {config.get(field)!r}" for field in differing)
            raise UserError(f"Source adapters '{first_name}' and '{name}' are configured differently ({details}): train them alike.")


def require_architecture(directories: Mapping[str, Path], architecture: str | None) -> None:
    """Refuse adapters of an architecture that is not the backbone's: tensors of the same names and shapes would load all the same.

    Args:
        directories: Where each adapter lies, by name.
        architecture: Of the backbone. None: not known yet, and the adapters are compared with each other.

    Raises:
        UserError: One of them says another; the sentence names it and both architectures.
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
    return content_origin([directory / CONFIG, weights_file(name, directory, allow_pickle=allow_pickle)])
