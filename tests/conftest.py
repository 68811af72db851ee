"""What every test needs: no network, no writes outside temporary directories, and the way to the shared files."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
    RAY_AUTH_MODE="token",  # or the first Ray that a test starts in this process would have all later ones ask for a token
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",  # Ray's own 15 would starve sweeps beside the other half of the tests
    TOKENIZERS_PARALLELISM="false",
    XDG_CACHE_HOME=str(_HOME / "cache"),
)
(_HOME / ".ray").mkdir()
(_HOME / ".ray" / "auth_token").write_text(secrets.token_hex(32))
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
    os.environ.pop(_name, None)


# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_configure() -> None:
    """Listen to signals as in a terminal: behind `&` and `nohup` they are ignored, and so they would be by what the tests start."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


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


@pytest.fixture(scope="session")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files with this environment as its `.venv`: what a user has after the installation."""
    return _copy_of(repository, tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def quickstart(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another such copy, in which `make quickstart` has run (minutes). Tests that share it must leave its results alone."""
    directory = _copy_of(repository, tmp_path_factory.mktemp("quickstart"))
    run = subprocess.run(["make", "quickstart"], cwd=directory, capture_output=True, text=True, timeout=3400)
    (directory / "quickstart.txt").write_text(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    return directory


def _copy_of(repository: Path, directory: Path) -> Path:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("needs a git clone, to know which files a user gets")
    for name in filter(None, listing.stdout.split("\0")):
        if (repository / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, directory / name)
    environment = directory / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("."):
            (environment / entry.name).symlink_to(entry)
    for stamp in (".pip", ".torch", ".package", ".quickstart", ".dev"):  # so that make installs nothing
        (environment / stamp).touch()
    return directory
