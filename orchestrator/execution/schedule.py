"""Run one sweep on Ray Tune, from the first pack to the last, or to an interruption."""

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.identity import schema_version
from orchestrator.definition.resources import Shape, devices_of, placement_of, shape_of
from orchestrator.definition.schema import Budget, StageResources
from orchestrator.definition.titles import names_of
from orchestrator.drivers.claims import Claims
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.drivers.leftovers import TUNE, remove_leftovers
from orchestrator.execution.cluster import Cluster, connected, nodes, refuse_unplaceable
from orchestrator.execution.devices import measure_memory, recall_fitting, remember_fitting
from orchestrator.execution.early import rivals as rivals_in
from orchestrator.execution.ended_trials import ForgetfulScheduler, SilentProgress
from orchestrator.execution.options import Options
from orchestrator.execution.retries import Retries
from orchestrator.execution.search import GraphSearcher, Listener, TrialNews
from orchestrator.execution.signals import Interrupted, Signals
from orchestrator.execution.trial import ORDER, RESOURCES, MemberOrder, PackOrder, PackTrainable
from orchestrator.provenance import job_metadata
from orchestrator.scheduling.budget import Spending
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.turns import Turns
from orchestrator.storage.retrying import StoreUnavailable, stated_seconds
from orchestrator.watching.progress import show_seconds
from scalearn.identity import to_plain
from scalearn.tasks import task_of
from scalearn.training.runtime import Runtime

GRACE_SECONDS = 2.0
"""How long running jobs have to write a checkpoint after a signal. `ray job stop` kills after 3 seconds."""

GRACE = "SCALEARN_GRACE_SECONDS"
"""Environment variable with another number of seconds."""

_BUDGET_GRACE_SECONDS = 60.0
"""How long they have when the budget is spent, since nobody is about to kill this process."""

_MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Settings:
    """How the jobs of a sweep run. None of it enters a job's identity."""

    name: str
    """The sweep's, under which Ray shows its job and its workers."""
    resources: StageResources
    runtime: Runtime
    provenance: Mapping[str, Any]
    options: Options
    cost: Callable[[bool], CostModel]
    """Return the cost model by which jobs are ordered and packed. The argument says whether any job has a GPU."""
    budget: Budget
    begun: float
    """When the run began, by `time.monotonic`, since which its budget counts."""


@dataclass(frozen=True)
class Unfinished:
    """What a run leaves whose budget is spent. The seconds are those of the cost model, on this cluster."""

    jobs: int
    seconds: float
    device_seconds: float
    spent: tuple[float, float]
    """Seconds and device seconds that the run has taken."""
    too_long: float | None
    """Seconds of the longest job that the whole budget would not admit. None: there is none."""


def run_graph(
    graph: Graph,
    settings: Settings,
    heartbeat: Heartbeat,
    *,
    signals: Signals,
    listeners: Iterable[Listener] = (),
    announce: Callable[[Cluster, Collection[Shape]], None] = lambda cluster, shapes: None,
    grow: Callable[[], list[str]] = list,
) -> Unfinished | None:
    """Run every pending job of a graph. The graph's states tell how each job ended. The process is left in the root directory.

    Args:
        graph: The jobs, with those that are done marked so.
        settings: How to run.
        heartbeat: This driver's heartbeat, in the store where artifacts go.
        signals: Tells of an interruption.
        listeners: Called with every change of a job's state.
        announce: Called once Ray is up, with the resources of the trials that will run.
        grow: As for `GraphSearcher`. New jobs need what jobs at the start needed.

    Returns:
        What is left because the budget is spent. None: nothing is left for this reason.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP came. Running jobs were asked for a checkpoint and had a moment to write it.
        RayLost: The local Ray is gone.
        UserError: Ray cannot be reached, or a job fits on no node.
    """
    store, claims = heartbeat.store, Claims(heartbeat)
    options = settings.options
    place = f"{TUNE}/{heartbeat.name}"
    scratch, stop_file = store.scratch / place, store.root / place / "stop"
    scratch.mkdir(parents=True)
    try:
        with connected(options.cpus, options.gpus, dashboard=options.dashboard, metadata=job_metadata(settings.name, store.url)) as cluster:
            remove_leftovers(store, claims.signs, scratch)
            signals.install()  # Ray has replaced them by its own
            orders = _Orders(graph, store, settings, stop_file, cluster.default_gpu)
            pending = [node for node, state in graph.states.items() if state == "pending"]
            shapes = {orders.placement(graph.job(node)): orders.shape(graph.job(node)) for node in pending}
            announce(cluster, shapes.values())
            refuse_unplaceable(cluster, {node: orders.shape(graph.job(node)) for node in pending})
            turns = Turns(shapes, nodes)
            cost = settings.cost(any("GPU" in shape for shape in shapes.values()))
            devices = measure_memory(graph, store, cost, settings.runtime, orders.shape, orders.placement, cluster.check)
            slots = max(turns.room.values())
            policy = Policy(
                graph,
                devices.cost,
                slots,
                orders.placement,
                lambda job: devices.names.get(orders.placement(job), ""),
                lambda device_key, tokens: remember_fitting(store, device_key, tokens),
            )
            policy.expect(recall_fitting(store, time.monotonic()))
            retries = Retries(options.max_failures, options.first_pause)
            spending = Spending(settings.budget, lambda node: devices_of(orders.shape(graph.job(node))), begun=settings.begun)
            searcher = GraphSearcher(
                graph,
                store,
                orders.config,
                policy=policy,
                turns=turns,
                retries=retries,
                claims=claims,
                spending=spending,
                listeners=listeners,
                grow=grow,
            )
            _leave_working_directory()
            _fit(_tuner(searcher, scratch, settings.name), searcher, spending, cluster, signals, store, stop_file)
            return _unfinished(graph, policy, spending)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not store.is_local:
            with contextlib.suppress(StoreUnavailable):  # then an empty file remains, which nobody looks for
                store.storage.remove_tree(stop_file.parent)


def _unfinished(graph: Graph, policy: Policy, spending: Spending) -> Unfinished | None:
    nodes = [node for node, state in graph.states.items() if state in ("pending", "running")]
    if not (nodes and spending.is_limited):
        return None
    seconds, device_seconds = policy.left(spending.devices)
    alone = {node: policy.seconds([node]) for node in nodes}
    too_long = max((seconds for node, seconds in alone.items() if not spending.ever_admits(node, seconds)), default=None)
    return Unfinished(len(nodes), seconds, device_seconds, spending.spent(), too_long)


def describe_unfinished(left: Unfinished) -> str:
    """Return in words what a budget has left, and what that will take."""
    seconds, device_seconds = left.spent
    text = (
        f"The budget admits no more, after {show_seconds(seconds)} and {device_seconds / 3600:.3g} device hours: {left.jobs} jobs are left,"
        f" about {show_seconds(left.seconds)} on this cluster, {left.device_seconds / 3600:.3g} device hours."
    )
    if left.too_long is not None:
        return f"{text} One job alone takes about {show_seconds(left.too_long)}, more than the whole budget: give a larger one."
    return f"{text} Run the same command again to go on."


def _leave_working_directory() -> None:
    """Go to a directory that stays: Tune asks for the current one, and another node of its machine may remove a Ray job's directory."""
    sys.path[:] = map(os.path.abspath, sys.path)
    os.chdir("/")


def _tuner(searcher: GraphSearcher, scratch: Path, sweep: str) -> tune.Tuner:
    names = count()

    # Tune registers classes in the cluster by job and name. It takes the number of a process's first job for all its later jobs, and
    # removes the classes of a driver that ends. Under one common name, drivers of one cluster could remove each other's classes.
    trainable = type(f"{sweep} by {scratch.name}", (PackTrainable,), {"sweep": sweep})
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=ForgetfulScheduler(),  # type: ignore[no-untyped-call]  # Ray's own constructor has no types
            num_samples=-1,  # until the searcher has finished, since a pack whose worker died is handed out again
            # Without this, a Searcher gets one pending trial at a time. It decides itself how many there are, since nodes come and go.
            max_concurrent_trials=_MOST_TRIALS,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config[ORDER].members[0].node.replace("/", ":")),
            trial_dirname_creator=lambda trial: f"pack{next(names)}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[TrialNews(searcher), SilentProgress()],
            verbose=0,
            log_to_file=False,
        ),
    )


def _fit(
    tuner: tune.Tuner, searcher: GraphSearcher, spending: Spending, cluster: Cluster, signals: Signals, store: Store, stop_file: Path
) -> None:
    """Run Tune in a thread of its own. Signals then find the main thread idle, and a second signal can end the run at once."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            failure.append(error)

    def stop(seconds: float) -> float:
        """Ask for checkpoints, and return until when to wait for them."""
        until = time.monotonic() + seconds
        searcher.stop()
        try:
            store.storage.write(stop_file, b"")
        except StoreUnavailable:  # jobs then continue from what they last wrote there
            return 0.0
        return until

    thread = threading.Thread(target=fit, name="tune", daemon=True)
    with signals.noted():
        thread.start()
        deadline = math.inf
        while thread.is_alive() and signals.received is None and time.monotonic() < deadline:
            thread.join(0.2)
            cluster.check()
            if deadline == math.inf and spending.is_over():
                deadline = stop(_BUDGET_GRACE_SECONDS)
        if signals.received is not None:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            deadline = stop(stated_seconds(GRACE, GRACE_SECONDS))
            while searcher.handed_out and thread.is_alive() and time.monotonic() < deadline:
                thread.join(0.1)
            raise Interrupted(signals.received)
    if failure:
        raise failure[0]


class _Orders:
    """Turns nodes into orders for workers."""

    def __init__(self, graph: Graph, store: Store, settings: Settings, stop_file: Path, gpu: float) -> None:
        self._graph = graph
        self._gpu = gpu
        self._store = store
        self._settings = settings
        self._stop_file = stop_file
        self._rivals = rivals_in(graph)

    def shape(self, job: Job) -> dict[str, float]:
        """Return the resources of one trial of a job, by Ray's names."""
        return shape_of(self._settings.resources.of(job.config.stage, job.config.method), self._gpu)

    def placement(self, job: Job) -> Hashable:
        """Return what jobs of one pack must have in common, since the whole pack is placed at once."""
        return placement_of(self.shape(job))

    def config(self, pack: tuple[str, ...]) -> dict[str, Any]:
        """Return the trial configuration of a pack."""
        jobs = [self._graph.job(node) for node in pack]
        shape = self.shape(jobs[0])
        device = self._settings.runtime.device if "GPU" in shape else "cpu"
        runtime = dataclasses.replace(self._settings.runtime, threads=max(1, int(shape["CPU"])), device=device)
        members = tuple(map(self._member, jobs))
        return {ORDER: PackOrder(members, self._store.url, self._settings.options.train, runtime, self._stop_file), RESOURCES: shape}

    def _member(self, job: Job) -> MemberOrder:
        record = {
            "node": job.node,
            "path": job.path,
            "fingerprint": job.fingerprint,
            "schema_version": schema_version(job.config),
            "stage": self._graph.stage_of(job.node),
            "config": to_plain(job.config),
            "parents": [parent.node for parent in job.parents],
            "names": names_of([job]),
            "provenance": dict(self._settings.provenance),
        }
        parents = dict(zip(job.parent_names, (parent.node for parent in job.parents), strict=True))
        if job.config.compared and job.node not in self._rivals:  # the graph has grown
            self._rivals = rivals_in(self._graph)
        rivals = self._rivals.get(job.node, ())
        return MemberOrder(job.node, job.config, record, parents, rivals, task_of(job.config.data[0]).primary_metric if rivals else "")
