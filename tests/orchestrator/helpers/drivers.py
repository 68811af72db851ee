"""Drivers in the test's own process: one that claims jobs, one that prepares, and what others see of them in the store."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.drivers import prepare as preparing
from orchestrator.drivers.claims import CLAIMS, Claims
from orchestrator.drivers.heartbeat import DRIVERS, Heartbeat

ELSEWHERE = {"host": "elsewhere", "machine": "another"}
"""What is in the sign of a driver whose processes nobody here can see."""


@contextmanager
def claiming(store: Store, lease: float | None = None, **options: Callable[..., Any]) -> Iterator[Claims]:
    """A driver that lives as long as the context."""
    with Heartbeat(store, lease=lease) as heartbeat:
        yield Claims(heartbeat, **options)


def prepare(graph: Graph, store: Store, forced: Sequence[str] = (), **options: Any) -> list[preparing.SetAside]:
    """Prepare as a driver that does nothing else."""
    with Heartbeat(store) as heartbeat:
        return preparing.prepare(graph, store, heartbeat, forced, **options)


def sign_of(store: Store, driver: str) -> Path:
    return store.root / DRIVERS / f"{driver}.json"


def read_sign(store: Store, driver: str) -> dict[str, Any]:
    return dict(json.loads(sign_of(store, driver).read_text()))


def give_sign(store: Store, driver: str, **facts: object) -> None:
    """Give a sign of life in the name of a driver, which is elsewhere unless the facts say otherwise."""
    store.write_json(sign_of(store, driver), {"count": 1, "pid": 1, "started": 1.0, **ELSEWHERE, **facts})


def claim_as(store: Store, driver: str, node: str) -> None:
    """Leave the claim of a driver that need not exist."""
    store.write_json(store.root / CLAIMS / node / "1.json", {"driver": driver})
