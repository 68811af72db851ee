"""Run a sweep from its file to its table. A second run resumes, extends or repairs it; a job that is done is never trained twice."""

import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from orchestrator import provenance
from orchestrator.artifacts.manifest import keep_apart, own_name, write_manifest
from orchestrator.artifacts.store import CACHE, FAILED, TRACEBACK, Store
from orchestrator.definition.graph import DONE, Graph
from orchestrator.definition.resources import Shape
from orchestrator.definition.schema import Budget
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.events import Journal
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.drivers.others import refuse_name
from orchestrator.drivers.prepare import SetAside, prepare
from orchestrator.execution.options import Options
from orchestrator.execution.rounds import Rounds
from orchestrator.execution.signals import Signals
from orchestrator.profiling.profile import DEFAULT_CPU_PROFILE, DEFAULT_PROFILE, load_profile
from orchestrator.scheduling.cost import CostModel, cost_of
from orchestrator.storage.retrying import StoreUnavailable
from orchestrator.tracking.before_run import check_tracking_uri, is_deleted
from orchestrator.tracking.ledger import logged_before
from orchestrator.tracking.writer import Target, Tracker, program
from orchestrator.watching.notify import LAST_SECONDS, LAST_SECONDS_INTERRUPTED, Notifier
from orchestrator.watching.progress import ProgressDisplay
from orchestrator.watching.report import Report, report_folder, show_results
from orchestrator.watching.running import read_running
from scalearn.errors import UserError
from scalearn.secrets import without_secrets
from scalearn.tasks import task_of
from scalearn.training.runtime import Runtime

if TYPE_CHECKING:
    from orchestrator.execution.cluster import Cluster
    from orchestrator.execution.search import Listener

SUCCEEDED, SOME_FAILED, BUDGET_SPENT, INTERRUPTED = 0, 1, 3, 130
"""Exit codes. 2 means wrong input."""

_RAY_COPIES = "/runtime_resources/working_dir_files/"
"""Where Ray unpacks what `ray job submit --working-dir` uploads."""
_TRACKING_PATIENCE = 600.0
_TRACKING_PATIENCE_INTERRUPTED = 0.5


@dataclass(frozen=True)
class Launch:
    """One run of a sweep: what to run, where, and how."""

    sweep: Sweep
    graph: Graph
    """The jobs to run: all of the sweep's, or those that the options name."""
    store: Store
    options: Options
    console: Console
    signals: Signals


def run_sweep(sweep: Sweep, store: Store, options: Options, console: Console) -> int:
    """Run a sweep and print its table.

    Args:
        sweep: What to run.
        store: Where artifacts are read and written.
        options: How this launch proceeds.
        console: Where to print.

    Returns:
        The exit code: 0 when all jobs are done, 1 when some failed or are blocked, 3 when the budget ended it before that, 130 when
        interrupted.

    Raises:
        UserError: Wrong input, local data without rows, a store that cannot be written to, or a cluster that cannot be reached.
    """
    with Signals() as signals, _returning(), Notifier(sweep.notify, sweep.name, store) as notifier:
        remark = ""
        try:
            code, remark = _run(sweep, store, options, console, signals, notifier)
        except (KeyboardInterrupt, SystemExit) as error:  # SystemExit: raised by Ray's own handler while Ray starts
            if isinstance(error.__context__, BrokenPipeError):  # or: nobody reads our output any more
                raise
            code = INTERRUPTED
        except StoreUnavailable:
            if signals.received is None:
                raise
            code = INTERRUPTED
        if code == INTERRUPTED:
            remark = "Interrupted. Run the same command again to go on from the last checkpoints."
        if remark:
            _warn(console, remark)
        patience = LAST_SECONDS_INTERRUPTED if code == INTERRUPTED else LAST_SECONDS
        if problem := notifier.end("budget" if code == BUDGET_SPENT else "end", code, remark, patience):
            _warn(console, problem)
    return code


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    """Return to the working directory at the end, if it still exists. The run itself leaves it, and may not need it."""
    place = Path.cwd()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(place)


def _run(sweep: Sweep, store: Store, options: Options, console: Console, signals: Signals, notifier: Notifier) -> tuple[int, str]:
    """Return the exit code, and a sentence on it for a run that its budget ended."""
    rounds = Rounds(sweep, store)
    full = rounds.expanded.graph
    graph = full if options.only is None else full.restrict(options.only)
    if options.nodes is not None:
        graph = full.keep(options.nodes)
    _check_data(sweep, graph)
    target = Target.of(sweep.tracking.uri, sweep.tracking.experiment, sweep.name, _note(sweep), store)
    check_tracking_uri(target.uri)
    store.check_writable()
    content = rounds.content()
    with Journal(store, sweep.name, graph, content=content) as journal:  # first of all: it tells other drivers what this run needs
        refuse_name(store, sweep.name, content)
        return _run_named(Launch(sweep, graph, store, options, console, signals), rounds, target, journal, notifier)


def _run_named(launch: Launch, rounds: Rounds, target: Target, journal: Journal, notifier: Notifier) -> tuple[int, str]:
    sweep, graph, store, options, console = launch.sweep, launch.graph, launch.store, launch.options, launch.console
    full = rounds.expanded.graph  # it grows, if all of it is run
    if kept := keep_apart(sweep.name, full, store):
        _warn(console, f"Another sweep named {sweep.name!r}, with other jobs, was run into this store: its manifest is now {kept}.json.")
    write_manifest(sweep, full, store, target.uri, None)  # before the store is read: `scalearn prune` spares what it names
    forced = [node for node in graph.nodes() if re.search(options.only or "", node)] if options.force else []
    known = logged_before(store, sweep.name)
    moved = prepare(graph, store, journal.heartbeat, forced, known=known, tell=lambda line: _warn(console, line))
    for item in moved:
        journal.note("set_aside", **vars(item))
    _print_start(sweep, graph, store, target, moved, console)
    here, folder = Path.cwd(), report_folder(store, sweep.name)  # the working directory may be gone at the end
    if remark := target.remark(store):
        _warn(console, remark)
    if is_deleted(target.uri, target.experiment):
        _warn(console, f"The MLflow experiment '{target.experiment}' was deleted: logging to it restores it, with its runs.")
    tracker = Tracker(target, graph, store)

    def grow() -> list[str]:
        new = rounds.grow(graph) if graph is full else []
        if new:
            write_manifest(sweep, full, store, target.uri, None, own_name(sweep.name, full, store))
        return new

    notifier.begin(graph)
    report, left, remark = None, 0, ""
    try:
        grow()  # an earlier run may have ended between two rounds
        code, remark = _run_pending(launch, tracker, [journal.listen, notifier.listen], journal.heartbeat, grow)
        store.check_reachable(patient=True)  # otherwise every later step would wait for the store again
        name = own_name(sweep.name, full, store)
        write_manifest(sweep, full, store, target.uri, None, name)
        report = show_results(store, name, console, folder.with_name(name))
        left = _finish_tracking(tracker, code, report)
    except (KeyboardInterrupt, StoreUnavailable) as error:
        if isinstance(error, StoreUnavailable) and launch.signals.received is None:
            raise
        code = INTERRUPTED
        left = _finish_tracking(tracker, code, None)
    name = own_name(sweep.name, full, store)
    write_manifest(sweep, full, store, target.uri, tracker.run_id, name)
    _print_failures(graph, store, console)
    _print_places(target, store, _command_to_look(store, name, here), report, console)
    if tracker.report_problem:
        _warn(console, f"The report is not in MLflow yet ({tracker.report_problem}): the next run logs it.")
    if left:
        reason = tracker.problem or ("they have not ended" if code == BUDGET_SPENT else "no time was left")
        _warn(console, f"{left} jobs are not in MLflow yet ({reason}): the next run logs them.")
    return code, remark


def _check_data(sweep: Sweep, graph: Graph) -> None:
    """Refuse empty and broken local files before anything is written, since every job that reads them would fail."""
    from scalearn.tasks.present import check_present  # it loads pyarrow, which planning does not need

    for task in {data.task: task_of(data) for job in graph for data in job.config.data}.values():
        check_present(task, _absolute(sweep.data.root))


def _run_pending(
    launch: Launch, tracker: Tracker, listeners: "list[Listener]", heartbeat: Heartbeat, grow: Callable[[], list[str]]
) -> tuple[int, str]:
    """Run the jobs that are not done. Return the exit code of a run that nothing interrupted, and what is left where its budget did."""
    sweep, graph, store, options, console = launch.sweep, launch.graph, launch.store, launch.options, launch.console
    begun = time.monotonic()
    untracked = tracker.untracked(node for node, state in graph.states.items() if state == "cached")
    for node in untracked:
        tracker.add(node)
    pending = graph.counts()["pending"]
    if pending:
        _check_home()
    if untracked or pending:
        tracker.start()
    if not pending:
        return SUCCEEDED, ""
    # Imported now, since it is needed at the end, when the copy of this code in which a Ray job runs may be gone.
    from analysis.report import results  # noqa: F401

    # Imported here: Ray takes seconds to load, which a finished sweep saves.
    from orchestrator.execution.cluster import describe_gpus
    from orchestrator.execution.local_ray import RayLost
    from orchestrator.execution.schedule import Settings, describe_unfinished, run_graph

    settings = Settings(
        name=sweep.name,
        resources=sweep.resources,
        runtime=Runtime(
            data_root=_absolute(sweep.data.root),
            cache=store.scratch / CACHE,
            allow_pickle=sweep.sources.allow_pickle,
            attention=sweep.resources.attention,
            gradient_checkpointing=sweep.resources.gradient_checkpointing,
        ),
        provenance=provenance.capture(sweep.file, sweep.overrides),
        options=options,
        cost=_cost(sweep),
        budget=Budget(hours=options.hours or sweep.budget.hours, device_hours=options.device_hours or sweep.budget.device_hours),
        begun=begun,
    )

    def announce(cluster: "Cluster", shapes: Collection[Shape]) -> None:
        place = f"http://{cluster.dashboard}" if cluster.dashboard else "off; --dashboard serves it on loopback"
        console.print(f"Ray dashboard: {place}", highlight=False, soft_wrap=True)
        console.print(describe_gpus(cluster, shapes), highlight=False, soft_wrap=True, markup=False)

    # Tune prints a traceback of its own code for every worker that dies. This run reports the job's fate, and the store keeps it.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    unfinished = None
    try:
        shown = console if options.progress else Console(quiet=True)
        with ProgressDisplay(graph, shown, partial(read_running, store)) as progress:
            listeners = [progress.listen, tracker.listen, *listeners]
            unfinished = run_graph(graph, settings, heartbeat, signals=launch.signals, listeners=listeners, announce=announce, grow=grow)
    except RayLost as error:
        _warn(console, str(error))
    if unfinished is not None:
        return BUDGET_SPENT, describe_unfinished(unfinished)
    return SUCCEEDED if all(state in DONE for state in graph.states.values()) else SOME_FAILED, ""


def _check_home() -> None:
    """Refuse a user whom a container knows only by number, since Ray would end in a traceback."""
    try:
        Path.home()
    except RuntimeError:
        raise UserError("This user has no home directory, and Ray needs one: set HOME to a directory that can be written to.") from None


def _cost(sweep: Sweep) -> Callable[[bool], CostModel]:
    """Return a function from "does any job have a GPU?" to the cost model of the jobs. A profile given by the user is read at once."""
    named = None if sweep.packing.profile is None else load_profile(sweep.packing.profile)

    def model(on_gpus: bool) -> CostModel:
        profile = named or load_profile(DEFAULT_PROFILE if on_gpus else DEFAULT_CPU_PROFILE)
        return cost_of(sweep, profile)

    return model


def _finish_tracking(tracker: Tracker, code: int, report: Report | None) -> int:
    status = {SUCCEEDED: "FINISHED", SOME_FAILED: "FAILED", BUDGET_SPENT: "KILLED", INTERRUPTED: "KILLED"}[code]
    patience = _TRACKING_PATIENCE_INTERRUPTED if code == INTERRUPTED else _TRACKING_PATIENCE
    return tracker.finish(status, patience, report if report and report.problem is None else None)


def _print_start(sweep: Sweep, graph: Graph, store: Store, target: Target, moved: list[SetAside], console: Console) -> None:
    for item in moved:
        left = f"Set aside {item.node}: {item.reason}. Its files are in {item.place}."
        _warn(console, left if item.place else f"Missing {item.node}: {item.reason}.")
    counts = graph.counts()
    text = f"Sweep {sweep.name}: {len(graph)} jobs, {counts['cached']} done before, {counts['pending']} to run. Store: {store.url}"
    console.print(text, highlight=False, soft_wrap=True)
    look = f" (to look: {command})" if (command := target.ui_command()) else ""
    console.print(f"MLflow: {target.address}{look}", highlight=False, soft_wrap=True, markup=False)
    if _RAY_COPIES in store.url:
        _warn(console, "This store lies in Ray's copy of the working directory, which Ray removes: name a lasting one with --store.")


def _print_failures(graph: Graph, store: Store, console: Console) -> None:
    """Print every job that failed and every job that waits for one, with the error's first line and the file that holds the rest."""
    for node, state in graph.states.items():
        if state == "failed":
            record = store.read_json(node, FAILED) or {}
            _warn(console, f"failed   {node}: {record.get('error', 'no cause is known')} ({store.directory(node) / TRACEBACK})")
    for node, state in graph.states.items():
        if state == "blocked":
            _warn(console, f"blocked  {node}: its parent {graph.blocked_by(node)} failed")


def _command_to_look(store: Store, sweep: str, here: Path) -> str:
    manifest = store.manifest_path(sweep)
    below = store.is_local and manifest.is_relative_to(here)
    return shlex.join([program("scalearn"), "ui", str(manifest.relative_to(here) if below else manifest)])


def _print_places(target: Target, store: Store, to_look: str, report: Report | None, console: Console) -> None:
    if report and report.problem:
        _warn(console, report.problem)
    lines = {"Artifacts": store.url}
    if report and report.problem is None:
        lines["Report"] = str(report.page)
    lines |= {"MLflow": target.address, "To look": to_look}
    for name, value in lines.items():
        console.print(f"{name + ':':<11} {value}", highlight=False, soft_wrap=True, markup=False)


def _warn(console: Console, line: str) -> None:
    console.print(Text(line, style="yellow"), soft_wrap=True, highlight=False)


def _note(sweep: Sweep) -> str:
    description = f"{sweep.description}\n\n" if sweep.description else ""
    return without_secrets(f"{description}```yaml\n{sweep.text}\n```")


def _absolute(root: str | None) -> Path | None:
    return None if root is None else Path(root).expanduser().absolute()
