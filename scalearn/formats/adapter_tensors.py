"""Check by names, types and shapes that a file holds exactly the tensors of a sequential bottleneck adapter.

Planning imports this module, so it imports no torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from scalearn.files.tensor_files import LARGEST, TensorShape

_HEAD = "heads."
"""Prefix of the names of a prediction head's tensors. They may be beside an adapter's, and a source does not need them."""
_TYPES = ("F64", "F32", "F16", "BF16")
_SLACK = 16 * 2**20
"""Bytes allowed besides an adapter's tensors, for their names and a head."""
_MOST_LAYERS = 200
_OLD_PLACES = "layer_text_task_adapters|layer_text_lang_adapters"
"""Names of the library's first versions for `adapters`, where an adapter sits after the feed-forward block."""


def bottleneck_width(hidden: int, reduction: float) -> int:
    """Return the width r that the adapters library computes from a reduction factor: a whole number of at least 1."""
    return max(1, int(hidden // reduction))


def exact_reduction(hidden: int, width: int) -> float:
    """Return a reduction factor for which the adapters library computes exactly this width: `int(hidden // factor)`.

    >>> exact_reduction(768, 384)
    2.0
    >>> int(768 // exact_reduction(768, 720))
    720
    """
    plain = hidden / width
    # If the ratio is not exact, its floor may be one too small. The middle of the next step is safe.
    return plain if bottleneck_width(hidden, plain) == width else hidden / (width + 0.5)


class Size(NamedTuple):
    """The sizes that determine the shapes of an adapter's tensors."""

    hidden: int
    """Hidden size d of the backbone."""
    width: int
    """Bottleneck width r."""

    @classmethod
    def of(cls, hidden: int, reduction: float) -> "Size":
        """Return the size for a reduction factor."""
        return cls(hidden, bottleneck_width(hidden, reduction))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one layer's tensors, by name."""
        d, r = self
        return {"adapter_down.0.weight": (r, d), "adapter_down.0.bias": (r,), "adapter_up.weight": (d, r), "adapter_up.bias": (d,)}


def require_plausible_file(path: Path, size: Size, layers: int | None) -> None:
    """Refuse a file that is larger than its configuration explains, before any of it is read.

    Args:
        path: The file of the weights.
        size: The size in its configuration.
        layers: Number of the backbone's layers. None: not known yet.

    Raises:
        ValueError: It is larger. The message is a clause.
    """
    entries = 2 * size.hidden * size.width + size.width + size.hidden
    most = min(LARGEST, (layers or _MOST_LAYERS) * entries * 8 + _SLACK)
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, but its configuration explains at most {most}")


def tensors_by_layer(tensors: Mapping[str, TensorShape], own_name: str, size: Size) -> dict[str, dict[str, str]]:
    """Sort an adapter's tensors by the place in the backbone to which they belong.

    Args:
        tensors: The file's tensors. Those of a prediction head are left out.
        own_name: The adapter's name within the names of its tensors.
        size: The size in the adapter's configuration.

    Returns:
        For each place, such as `bert.encoder.layer.0.output`, the names in the file by part, such as `adapter_up.bias`.

    Raises:
        ValueError: A tensor is missing, is not part of a sequential bottleneck, or has another type or shape. The message is a
            clause.
    """
    pattern = re.compile(rf"(?P<place>.+)\.(?:adapters|{_OLD_PLACES})\.{re.escape(own_name)}\.(?P<part>.+)", re.DOTALL)
    layers: dict[str, dict[str, str]] = {}
    unused: list[str] = []
    for name, tensor in tensors.items():
        found = pattern.fullmatch(name)
        if name.startswith(_HEAD):
            continue
        if found is None or found["part"] not in size.shapes:
            unused.append(name)
            continue
        wanted = size.shapes[found["part"]]
        if tensor.shape != wanted:
            raise ValueError(f"{_shown(name)} has shape {list(tensor.shape)[:5]}, but its configuration says {list(wanted)}")
        if tensor.dtype not in _TYPES:
            raise ValueError(f"{_shown(name)} is of type {tensor.dtype}, which is none of {', '.join(_TYPES)}")
        if found["part"] in layers.setdefault(found["place"], {}):
            raise ValueError(f"{_shown(name)} is there under two names")
        layers[found["place"]][found["part"]] = name
    if unused:
        others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise ValueError(f"{_shown(min(unused))}{others} would not be used by a sequential bottleneck adapter {_shown(own_name)}")
    for place, parts in layers.items():
        lacking = size.shapes.keys() - parts.keys()
        if lacking:
            raise ValueError(f"at {_shown(place)} it lacks {', '.join(sorted(lacking))}")
    return layers


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:60]}...{name[-50:]}")
