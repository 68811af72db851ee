"""Makes this repository importable on a machine with torch, transformers, adapters and datasets alone. Import it before `scalearn`."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

BEGAN = time.perf_counter()
"""About when the process began, before it loaded its libraries."""

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if importlib.util.find_spec("annotated_types") is None:
    # It holds the ranges of a sweep file's values. Only pydantic reads them, which is not there either.
    _ranges = ModuleType("annotated_types")
    _ranges.__dict__.update(dict.fromkeys(("Gt", "Interval"), lambda *_, **__: None))
    sys.modules["annotated_types"] = _ranges
