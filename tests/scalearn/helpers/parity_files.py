"""The recorded outputs of the official implementation: where they lie, and how close is close enough."""

import json
import os
from fnmatch import fnmatch
from pathlib import Path

from safetensors import safe_open
from transformers import RobertaConfig

JOINT_AND_PROPETL = {"propetl", "propetl_m", "hyperformer", "hyperformer_pp"}
_DOCUMENTATION = ("readme*", "license*", "manifest*", "sha256sums*", "*.md", ".git*")
_REPOSITORY = Path(__file__).resolve().parents[3]

Differences = tuple[float, float, float]
"""Largest ones: of logits, of the loss, and of gradients relative to each gradient's largest entry."""


class Recording:
    """One file: the tensors of the official implementation, and what they belong to."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in tuple(file.keys())}
            self.metadata: dict[str, str] = file.metadata()
        self.variant = self.metadata["variant"]
        self.config = RobertaConfig(**json.loads(self.metadata["config"]))


def directory() -> Path | None:
    """$SCALEARN_PARITY_DIR, or `parity` within the shared files where there are any."""
    if named := os.environ.get("SCALEARN_PARITY_DIR"):
        return Path(named)
    shared = Path(os.environ.get("SCALEARN_SHARED", _REPOSITORY.parent / "shared"))
    return shared / "parity" if shared.is_dir() else None


def recorded_files() -> list[Path]:
    """All files there are, in subdirectories and behind links too: one of another kind is no recording, so reading it fails."""
    place = directory()
    found = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=True) for name in names] if place is not None else []
    return sorted(path for path in found if not any(fnmatch(path.name.lower(), pattern) for pattern in _DOCUMENTATION))


def is_baseline(path: Path) -> bool:
    """Whether a file holds one batch per task, as those of the baselines do."""
    return path.parent.name == "baselines" or variant(path) in JOINT_AND_PROPETL


def variant(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return str(file.metadata()["variant"])


def assert_reproduced(label: str, differences: Differences) -> None:
    logits, loss, gradient = differences
    print(f"{label}: logits {logits:.1e}, loss {loss:.1e}, gradients {gradient:.1e}")
    assert logits < 1e-5, label
    assert loss < 1e-5, label
    assert gradient < 1e-4, label
