"""ScaLearn: two-stage transfer learning with scaled source adapters, as a PyTorch library.

`scalearn.NAME` gives what a user of the library needs, and so do `scalearn.tasks` and the other modules. Each is imported when it is first
used, so that planning, which needs only the names of tasks and methods, loads no torch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalearn.api import attach, fit, job, task_data
    from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
    from scalearn.layers.heads import HeadConfig
    from scalearn.model.export import export_adapter, fold
    from scalearn.model.model import LoadedBackbone, Prediction, TransferModel, load_backbone, load_model
    from scalearn.training.runtime import Runtime

_PLACES = {
    "api": ("attach", "fit", "job", "task_data"),
    "model.export": ("export_adapter", "fold"),
    "layers.heads": ("HeadConfig",),
    "model.model": ("LoadedBackbone", "Prediction", "TransferModel", "load_backbone", "load_model"),
    "training.runtime": ("Runtime",),
    "formats.source_adapters": ("SourceAdapters", "load_source_adapters"),
}

__all__ = [
    "HeadConfig",
    "LoadedBackbone",
    "Prediction",
    "Runtime",
    "SourceAdapters",
    "TransferModel",
    "attach",
    "export_adapter",
    "fit",
    "fold",
    "job",
    "load_backbone",
    "load_model",
    "load_source_adapters",
    "task_data",
]


def __getattr__(name: str) -> Any:
    """Import a module, or a public name from the module that holds it."""
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    if name.isidentifier() and not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
