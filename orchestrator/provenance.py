"""The origin of results, recorded once per launch and written into every job's record."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalearn.secrets import without_secrets

_PACKAGES = ("scalearn-orchestrator", "torch", "transformers", "adapters", "accelerate", "datasets", "safetensors", "numpy", "ray")


def capture(file: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return code version, packages and command line of this process.

    Args:
        file: The sweep's file.
        overrides: The values of `--set`.
    """
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (changes := _git("status", "--porcelain", "--untracked-files=no")) is None else bool(changes),
        "packages": dict(_versions()),
        "python": platform.python_version(),
        "argv": list(map(without_secrets, sys.argv)),
        "sweep_file": file,
        "overrides": list(map(without_secrets, overrides)),
    }


def job_metadata(sweep: str, store: str) -> dict[str, str]:
    """Return what Ray shows of a sweep among its jobs: its name, the store, and this package's version."""
    return {"sweep": sweep, "store": without_secrets(store), "version": importlib.metadata.version(_PACKAGES[0])}


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    return found


def _git(*arguments: str) -> str | None:
    """Return git's answer about this code. None: it is not a working copy, or git is not installed."""
    directory = Path(__file__).resolve().parent
    if not (directory.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
