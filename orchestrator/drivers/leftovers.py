"""What drivers that were killed leave in a store, and the next one removes: never anything of a driver that lives, on whichever host."""

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
"""Folder of a store, or of this host's scratch, in which each driver has one of its own, which bears its name."""

_DAY = 86400.0
_DRIVER = re.compile(r"(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")
_NAMELESS = re.compile(r"\.mlflow-\w+|\.write-[0-9a-f]{32}|\..+-[0-9a-f]{8}|[0-9a-f]{12}")
"""What is made beside a file and moved into its place, and what earlier versions left: it does not say whose it is."""
_EARLIER_SIGN = re.compile(r"[^/]+/drivers/[^/]+")
"""Where earlier versions gave a second sign of life, by the clock of the day, which nobody reads any more."""


def remove_leftovers(store: Store, signs: Signs, own: Path) -> None:
    """Remove what no living driver can need any more.

    A folder of a driver of this host goes once its process has ended. That of another host's goes, and so do what bears no driver's name
    and signs of life, when a day has passed since anything in it was written, by the clock of the storage alone.

    Args:
        store: Where. Behind a URL, this host's scratch.
        signs: Tell which drivers live.
        own: This driver's own folder, just made: its time is now.
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
