"""Start a local Ray or connect to the cluster that RAY_ADDRESS names, and tell what it can hold."""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import auto_init_hook
from ray._private.state import state as global_state  # an autoscaler's limits have no public name
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError
from ray.job_config import JobConfig

from orchestrator.definition.resources import Shape, check_placeable, default_gpu
from orchestrator.execution import local_ray
from orchestrator.execution.local_ray import LOCAL, LocalRay
from orchestrator.execution.node_watch import drained_nodes
from scalearn.errors import UserError
from scalearn.secrets import clause

_OBJECT_STORE_BYTES = 200 * 1024**2
"""Small, since orders and outcomes are small, and artifacts travel through the store."""

_MOST_OF_A_KIND = 1000
"""How many nodes of one kind are counted on where the autoscaler sets no limit (it then gives a negative number)."""

_NODE_ID = re.compile(r"Node Id: ([0-9a-f]+)")
"""Finds the node in Ray's message about an actor that died with its node; the error itself has no field for it."""


@dataclass(frozen=True)
class Cluster:
    """A Ray that is up."""

    nodes: tuple[Mapping[str, float], ...]
    """Total resources of each node, by Ray's names (`CPU`, `GPU`, ...). Nodes that an autoscaler may add are included."""
    dashboard: str | None
    """Address of Ray's dashboard, where it runs."""
    local: LocalRay | None
    """The local Ray, if this process has started it."""
    gpus: float = 0.0
    """GPUs of all nodes that are up."""
    torch_sees_gpus: bool = True
    """False if Ray found GPUs on this machine that the installed torch cannot use, for example because it is a build for CPUs."""

    @property
    def default_gpu(self) -> float:
        """GPUs of a trial whose sweep file states none. An autoscaler's nodes count before they are up, or nothing would start them."""
        return default_gpu(self.nodes) if self.torch_sees_gpus else 0.0

    def check(self) -> None:
        """Check that a local Ray still runs.

        Raises:
            RayLost: It does not. What was left of it has been ended.
        """
        if self.local is not None:
            self.local.check()


@contextlib.contextmanager
def connected(
    cpus: int | None, gpus: int | None, *, dashboard: bool = False, metadata: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Hold a connection to Ray.

    Token authentication stays as Ray sets it: on for a local Ray, and as the cluster is configured elsewhere.

    Args:
        cpus: CPUs of a local Ray. None: all that this process may use.
        gpus: GPUs of a local Ray. None: all that Ray finds.
        dashboard: Whether a local Ray serves its dashboard on loopback. That costs a few seconds.
        metadata: What Ray shows of this process among its jobs.

    Raises:
        UserError: There is no Ray at RAY_ADDRESS, it refuses the connection, or none can be started on this machine.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # For good: a thread that calls Ray after this connection has ended would otherwise join any cluster that runs on the machine.
    auto_init_hook.enable_auto_connect = False
    address, local = os.environ.get("RAY_ADDRESS"), None
    job = JobConfig(metadata=dict(metadata or {}))
    if not address or address == LOCAL:
        local, context = local_ray.start(
            num_cpus=cpus or len(os.sched_getaffinity(0)),
            num_gpus=gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
            job_config=job,
        )
    else:
        context = _connect(address, job)
    try:
        up = ray.cluster_resources().get("GPU", 0.0)
        sees = local is None or gpus is not None or not up or _torch_sees_gpus()
        yield Cluster(nodes(), context.dashboard_url or None, local, gpus=up, torch_sees_gpus=sees)
    finally:
        ray.shutdown()


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    # Our own records replace Tune's CSV, JSON and TensorBoard files.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    # Agents would notice a killed raylet at once and write their last lines into our output. Two seconds later they are gone as well.
    "RAY_enable_pipe_based_agent_to_parent_health_check": "0",
    # Milliseconds until Ray calls a silent worker unavailable. Within them Ray mostly learns whether the whole node died.
    "RAY_timeout_ms_task_wait_for_death_info": "60000",
    # Nothing is restored from Tune's own snapshots.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def _connect(address: str, job: JobConfig) -> Any:
    try:
        return ray.init(logging_level=logging.ERROR, log_to_driver=False, job_config=job)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"No Ray cluster answers at RAY_ADDRESS={address}: {clause(error)}. Unset it to run locally.") from None


def _torch_sees_gpus() -> bool:
    import torch  # imported here: it takes seconds, which a machine without GPUs saves

    return torch.cuda.is_available()


def nodes() -> tuple[Mapping[str, float], ...]:
    """Return the resources of the nodes that are up and stay, and of the nodes that the cluster's autoscaler may start."""
    drained = drained_nodes()
    alive = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in drained]
    config = global_state.get_cluster_config()
    added = []
    for group in config.node_group_configs if config else ():
        most = _MOST_OF_A_KIND if group.max_count < 0 else min(group.max_count, _MOST_OF_A_KIND)
        added += [dict(group.resources)] * most
    return (*alive, *added)


def died_with_its_node(error: BaseException) -> bool:
    """Tell whether a worker died because its machine was lost or cannot be reached, by what Ray says; the job is then not to blame."""
    if isinstance(error, NodeDiedError | ActorUnavailableError):
        return True
    if isinstance(error, RayActorError) and error.preempted:
        return True
    named = _NODE_ID.search(str(error))
    return named is not None and any(node["NodeID"] == named[1] and not node["Alive"] for node in ray.nodes())


def describe_gpus(cluster: Cluster, shapes: Iterable[Shape]) -> str:
    """Return one line that says which of a cluster's GPUs are used.

    Args:
        cluster: Where jobs are to run.
        shapes: The resources of their trials.
    """
    if not default_gpu(cluster.nodes):
        return "GPUs: none; jobs run on CPUs"
    there = f"GPUs: {cluster.gpus:g}" if cluster.gpus else "GPUs: none up yet, some are started when jobs wait"
    amounts = sorted({shape.get("GPU", 0.0) for shape in shapes})
    if any(amounts):
        return f"{there}, {' to '.join(f'{amount:g}' for amount in dict.fromkeys((amounts[0], amounts[-1])))} per job or pack"
    reason = "`gpu: 0` in the sweep file" if cluster.torch_sees_gpus else "the torch that is installed cannot use them"
    return f"{there}, not used ({reason}); jobs run on CPUs"


def refuse_unplaceable(cluster: Cluster, shapes: Mapping[str, Shape]) -> None:
    """Refuse jobs that would wait for ever because no node can hold them.

    Args:
        cluster: Where they are to run.
        shapes: The resources of one trial, by job.

    Raises:
        UserError: No node can hold a job.
    """
    kinds = {tuple(sorted(shape.items())): job for job, shape in shapes.items()}
    for shape, job in kinds.items():
        check_placeable(cluster.nodes, dict(shape), job)
