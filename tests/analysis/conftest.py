"""Synthetic stores for the analysis tests, built once where nothing writes to them."""

import sys
from pathlib import Path

import pytest

# The tests run with importlib import mode, in which a test's folder is not on the path; the builder lies beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from build_store import StoreSpec, build_store


@pytest.fixture(scope="session")
def complete_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("complete")
    build_store(root)
    return root


@pytest.fixture(scope="session")
def broken_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One failed seed, one target without any score, one job still running, one not begun."""
    root = tmp_path_factory.mktemp("broken")
    states = {"scalearn_pp/apple/lr6e-03-seed1": "failed", "scalearn_uniform_pp/coachella": "failed"}
    states |= {"scalearn_uniform/apple/lr6e-03-seed0": "running", "adapterfusion/apple/lr5e-05-seed1": "pending"}
    build_store(root, StoreSpec(states=states))
    return root
