"""`scalearn doctor`: what a report of a bug should say of the program, the machine and the places that it uses."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from orchestrator.artifacts.store import Store
from orchestrator.provenance import capture
from orchestrator.terminal import shown
from scalearn.secrets import first_line

if TYPE_CHECKING:
    from orchestrator.commands.arguments import Commands

_SECONDS = 3.0
"""How long a server may take to answer."""
_RAY_PORT = 6379
_VARIABLES = ("RAY_", "MLFLOW_", "SCALEARN_", "HF_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Beginnings of the names of variables that change what the program does."""

EXAMPLE = "scalearn doctor --store runs"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "describe versions, machine, store, cluster and hub, for the report of a bug"
    parser = commands.add_parser("doctor", help=summary, description=summary[:1].upper() + summary[1:] + ".")
    parser.add_argument("--store", metavar="DIRECTORY", default="runs", help="the store that is looked at (default: runs)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each thing. What cannot be found out is told as such, so the exit code is 0."""
    looks: dict[str, Callable[[], str]] = {
        "scalearn": _program,
        "packages": lambda: ", ".join(f"{name} {version}" for name, version in capture("", ())["packages"].items()),
        "machine": _machine,
        "devices": _devices,
        "store": lambda: _store(arguments.store),
        "cluster": _cluster,
        "hub": _hub,
        "variables": lambda: ", ".join(_set_variables()) or "none of its own are set",
    }
    with ThreadPoolExecutor(len(looks)) as pool:  # a server that does not answer then delays no other
        found = {name: pool.submit(_told, look) for name, look in looks.items()}
    for name, text in found.items():
        print(f"{name:<10} {shown(text.result())}")
    return 0


def _told(look: Callable[[], str]) -> str:
    try:
        return look()
    except Exception as error:  # whatever is broken, a report should say so and hold the rest
        return f"cannot be told: {first_line(error)}"


def _program() -> str:
    code = capture("", ())
    commit = f", commit {code['git_commit'][:12]}{' with changes' if code['git_dirty'] else ''}" if code["git_commit"] else ""
    return f"{importlib.metadata.version('scalearn-orchestrator')}{commit}, Python {code['python']}, {platform.platform()}"


def _machine() -> str:
    memory = psutil.virtual_memory()
    limit = next((int(text) for text in _memory_limits() if text.isdigit()), None)
    cpus = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs ({_processor()})"
    own = f", limited to {_gigabytes(limit)} for this process" if limit and limit < memory.total else ""
    return f"{cpus}, {_gigabytes(memory.available)} of {_gigabytes(memory.total)} memory free{own}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_limits() -> Iterator[str]:
    """Return what the control groups say, of version 2 and of version 1."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError):
            yield Path(path).read_text().strip()


def _devices() -> str:
    import torch  # imported here: it takes seconds, and may be what is broken

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU"
    names = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        names.append(f"{torch.cuda.get_device_name(number)}, {_gigabytes(free)} of {_gigabytes(total)} free")
    return f"torch {torch.__version__} sees {len(names)}: {'; '.join(names)}"


def _store(place: str) -> str:
    store = Store(place)
    store.check_reachable()
    if not store.is_local:
        return f"{store.url} answers"
    if not store.root.is_dir():
        return f"{store.url} does not exist yet"
    writable = "" if os.access(store.root, os.W_OK) else ", which this user cannot write to"
    sweeps = sum(1 for path in store.root.glob("sweeps/*.json"))
    return f"{store.url}{writable}: {sweeps} sweep{'' if sweeps == 1 else 's'}, {_gigabytes(shutil.disk_usage(store.root).free)} free"


def _cluster() -> str:
    address = os.environ.get("RAY_ADDRESS")
    if not address or address in ("local", "auto"):
        return f"RAY_ADDRESS is {address}" if address else "RAY_ADDRESS is not set, so a run starts a Ray of its own"
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or _RAY_PORT), timeout=_SECONDS):
            return f"{address} takes connections"
    except OSError as error:
        return f"{address} does not answer: {first_line(error)}"


def _hub() -> str:
    from huggingface_hub import constants  # imported here: it may be what is broken

    if constants.HF_HUB_OFFLINE:
        return f"not asked, since HF_HUB_OFFLINE is set; cache {constants.HF_HUB_CACHE}"
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_SECONDS):
            answer = "answers"
    except urllib.error.HTTPError as error:
        answer = f"answers {error.code}"
    except OSError as error:
        answer = f"does not answer: {first_line(error)}"
    return f"{constants.ENDPOINT} {answer}; cache {constants.HF_HUB_CACHE}"


def _set_variables() -> list[str]:
    return [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.upper().startswith(_VARIABLES)]


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
