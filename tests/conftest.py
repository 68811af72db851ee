"""What every test needs: no network, no writes outside temporary directories, and the way to the shared files."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="scalearn-tests-"))
_REPOSITORY = Path(__file__).resolve().parents[1]

# Set here, before any test module imports a library that reads them.
os.environ.update(
    HOME=str(_HOME),
    HF_HOME=str(_HOME / "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MPLBACKEND="Agg",
    MPLCONFIGDIR=str(_HOME / "matplotlib"),
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    XDG_CACHE_HOME=str(_HOME / "cache"),
)
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
    os.environ.pop(_name, None)


def pytest_unconfigure() -> None:
    """Remove the home that the tests lived in."""
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an accelerator where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an accelerator, and torch sees none here")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working copy that the tests run in."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Benchmark excerpts and parity files: $SCALEARN_SHARED, or `shared` beside the repository."""
    named = os.environ.get("SCALEARN_SHARED")
    directory = Path(named) if named else _REPOSITORY.parent / "shared"
    if not directory.is_dir():
        pytest.skip(f"no directory {directory}: set SCALEARN_SHARED to where the shared benchmark and parity files lie")
    return directory
