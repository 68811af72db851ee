"""What drivers that were killed left in a store. The next driver removes it, but nothing of a driver that lives, on any host."""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.artifacts.store import Store
from orchestrator.drivers.heartbeat import DRIVERS, Signs
from orchestrator.storage.files import written_at

TUNE = ".tune"
"""Folder of a store, or of this host's scratch, in which each driver has a folder with its own name."""

_DAY = 86400.0
_DRIVER = re.compile(r"(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")
_NAMELESS = re.compile(r"\.mlflow-\w+|\.write-[0-9a-f]{32}|\..+-[0-9a-f]{8}|[0-9a-f]{12}")
"""Temporary files and folders that are moved into place when complete, and those of earlier versions. Their names tell no driver."""
_EARLIER_SIGN = re.compile(r"[^/]+/drivers/[^/]+")
"""Where earlier versions wrote a second heartbeat, by the time of day. Nothing reads it any more."""


def remove_leftovers(store: Store, signs: Signs, own: Path) -> None:
    """Remove what no living driver can need.

    The folder of a driver of this host is removed once its process has ended. Other hosts' folders, heartbeats, and files without a
    driver's name are removed when nothing in them was written for a day, by the storage's own clock.

    Args:
        store: Where to remove. If it is behind a URL, this host's scratch.
        signs: Tell which drivers live.
        own: This driver's own folder, just made. Its time is the present time.
    """
    with contextlib.suppress(OSError):  # it is no reason to end a run
        _remove_old_signs(store, own.name)
    now = own.stat().st_mtime
    for place in _candidates(store):
        driver = _DRIVER.fullmatch(place.name) if place.parent.name == TUNE else None
        with contextlib.suppress(OSError):  # it is no reason to end a run
            if driver is not None and not signs.is_dead(place.name):
                continue
            ended = driver is not None and driver["host"] == socket.gethostname() and not psutil.pid_exists(int(driver["pid"]))
            if ended or now - _newest(place) > _DAY:
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def _remove_old_signs(store: Store, own: str) -> None:
    signs = {store.root / DRIVERS / name: written_at(facts) for name, facts in store.storage.listing(store.root / DRIVERS).items()}
    now = signs.get(store.root / DRIVERS / f"{own}.json", 0.0)
    for name, facts in store.storage.listing(store.root / "sweeps").items():
        if _EARLIER_SIGN.fullmatch(name):
            signs[store.root / "sweeps" / name] = written_at(facts)
    for path, written in signs.items():
        if now - written > _DAY:
            store.storage.remove(path)


def _candidates(store: Store) -> Iterator[Path]:
    yield from (path for path in (store.scratch / TUNE).glob("*") if _DRIVER.fullmatch(path.name) or _NAMELESS.fullmatch(path.name))
    if store.is_local:
        folders = [store.root, *(path for name in ("sweeps", ".leases") for path in _folders(store.root / name))]
        yield from (path for folder in folders for path in folder.glob(".*-*") if _NAMELESS.fullmatch(path.name))


def _folders(root: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(root)]


def _newest(place: Path) -> float:
    return max(path.lstat().st_mtime for path in (place, *place.rglob("*")))
