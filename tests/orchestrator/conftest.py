"""Servers that tests share: starting one takes seconds, and many of them do not ask for one of their own."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.orchestrator.helpers.object_server import ObjectServer, serving
from tests.orchestrator.helpers.starting import patiently
from tests.orchestrator.helpers.tracking_server import private_postgres

if TYPE_CHECKING:
    import subprocess

_HEAD = {"num_cpus": 4, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 150_000_000}


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """Address, for `RAY_ADDRESS`, of a node with four CPUs in name. Tests that break more than workers and drivers start their own."""
    from ray.cluster_utils import Cluster  # seconds, which most tests do not spend

    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0"})
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=_HEAD))
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """An S3-compatible server on loopback: one for all tests, since fsspec remembers the address that it first saw."""
    with serving("--nodes", "10000") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL on loopback, by its URI."""
    with private_postgres() as uri:
        yield uri


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Drivers that a test leaves running are killed at its end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()
