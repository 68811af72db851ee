"""Pretrained models from directories and hubs. Their configuration is checked before transformers uses it, their weights afterwards."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from scalearn.backbone.registry import Backbone, config_entries, require_harmless
from scalearn.errors import UserError
from scalearn.secrets import clause

_NUMBERED_LAYER = re.compile(r"\b(?:layers?|h|blocks?)\.\d+\.(?!.*\b(?:attn|attention)\.(?:masked_)?bias$)")
"""A weight within a layer. Checkpoints of GPT-2 and its like also hold causal masks there, which are no weights."""


def load_pretrained(
    choose_class: Callable[[str, Mapping[str, Any]], Any],
    backbone: Backbone,
    *,
    title: str = "Backbone",
    **settings: Any,
) -> tuple[Any, frozenset[str]]:
    """Load a model, but never code that lies beside it.

    Args:
        choose_class: Returns a class with `from_pretrained`, such as `AutoModel`, given the backbone's name and the entries of its
            configuration, or refuses these by a `UserError`.
        backbone: The backbone to load.
        title: Name of the model in error messages.
        settings: Arguments of `from_pretrained`.

    Returns:
        The model, on the CPU, and the names of weights that its checkpoint lacks and may lack: those of a pooler.

    Raises:
        UserError: Configuration or weights cannot be found or read, do not belong together, or require code from elsewhere.
    """
    where = {"revision": backbone.revision, "trust_remote_code": False}
    try:
        entries = config_entries(backbone)
        if entries is None:
            entries, _ = PretrainedConfig.get_config_dict(backbone.locate(), revision=backbone.revision)
        require_harmless(backbone.name, entries)
        model_class = choose_class(backbone.name, entries)
        config = AutoConfig.from_pretrained(backbone.locate(), **where)
        # The configuration is copied, since the adapters library changes it.
        given = {**where, **settings, "config": copy.deepcopy(config), "output_loading_info": True}
        model, info = model_class.from_pretrained(backbone.locate(), **given)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the files decide which error transformers raises
        reason = clause(error)
        if "attention implementation" in reason:
            raise UserError(
                f"Architecture {config.model_type} has no attention {settings['attn_implementation']}: set attention to eager."
            ) from error
        raise UserError(f"{title} '{backbone.name}' cannot be loaded from {backbone.locate()}: {reason}.") from error
    _require_whole(f"{title} '{backbone.name}'", info)
    return model, frozenset(info["missing_keys"])


def _require_whole(model: str, info: Mapping[str, Iterable[str]]) -> None:
    """Refuse weights with layers that the configuration lacks, or without layers that it has, which transformers would draw at random."""
    # Many checkpoints have no pooler: a head that needs one draws it. A language model's own head may be incomplete: nothing uses it.
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name and not name.startswith("heads."))
    deeper = sorted(name for name in info["unexpected_keys"] if _NUMBERED_LAYER.search(name))
    for names, what in ((missing, "lack what its config.json describes"), (deeper, "have layers that its config.json does not describe")):
        if names:
            raise UserError(f"The weights of {model[:1].lower()}{model[1:]} {what} ({names[0]}, {len(names)} in all): give a whole model.")
