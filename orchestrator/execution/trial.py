"""What a worker does: train one pack, and commit each of its jobs or mark it as failed. A warm worker runs one pack after another."""

import contextlib
import errno
import importlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ray import tune

from orchestrator.artifacts.job_history import summary
from orchestrator.artifacts.job_log import about, logged
from orchestrator.artifacts.store import CACHE, HISTORY, Store
from orchestrator.execution.early import must_stop
from orchestrator.execution.node_watch import NodeWatch
from orchestrator.storage.directory import size_of
from orchestrator.storage.retrying import Patience, StoreUnavailable, is_disk_trouble, is_full
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.secrets import first_line
from scalearn.training.pack import Outcome, OutOfMemory, PackMember, Report, Stop
from scalearn.training.runtime import Runtime

logger = logging.getLogger(__name__)

ENDING = "ending"
"""Key of the `Ending` in a trial's result."""

ORDER = "order"
"""Key of the `PackOrder` in a trial's configuration."""

RESOURCES = "resources"
"""Key of what Ray sets aside for a trial, by Ray's names, in its configuration."""

Train = Callable[[Sequence[PackMember], Runtime, Report], list[Outcome]]


@dataclass(frozen=True)
class MemberOrder:
    """One job of a pack, as the driver hands it out."""

    node: str
    config: JobConfig
    record: Mapping[str, Any]
    """Content of `job.json`."""
    parents: Mapping[str, str]
    """The node of every parent, by the name that training gives it."""
    rivals: tuple[str, ...] = ()
    """Nodes that the job is compared with for early stopping."""
    metric: str = ""
    """The primary metric of its task, by which early stopping compares."""


@dataclass(frozen=True)
class PackOrder:
    """All that a worker needs to know to run a pack."""

    members: tuple[MemberOrder, ...]
    store: str
    train: str
    """The training function, as `module:function`."""
    runtime: Runtime
    stop_file: Path
    """When this file exists, jobs write a checkpoint and stop."""


@dataclass(frozen=True)
class Ending:
    """How a pack ended, where the store does not tell."""

    how: Literal["done", "stopped", "halve", "part", "away"] = "done"
    """`stopped`: asked to stop, or taken over. `halve`: memory does not hold the pack. `part`: an error that any of its jobs may have
    caused. `away`: the store cannot be reached, so that the end could not be written there."""
    left: tuple[str, ...] = ()
    """Jobs that are neither done nor marked as failed."""
    error: str = ""
    """One sentence for the user, where the store is away."""


class TakenOver(Exception):
    """Another worker has begun a job of this pack anew, because this worker's driver or machine was taken for dead."""


class NodeLeaves(Exception):
    """The worker's node is about to go, and its jobs have written checkpoints. A worker ends with this, so that Tune gives it no more."""

    def __init__(self, ending: Ending) -> None:
        """Keep how the pack ended, for the driver."""
        super().__init__(ending)
        self.ending = ending


class PackTrainable(tune.Trainable):
    """A trial of one step, which trains one pack.

    `setup` and `reset_config` only keep the order: Ray may call them in two processes for one trial, so they must not touch the store.
    """

    sweep = ""
    """The sweep's name, set by the class that the driver derives for itself."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return what Ray sets aside. `tune.with_resources` would hide the class behind one of its own, and so its name."""
        return tune.PlacementGroupFactory([config[RESOURCES]])

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Go to a directory that exists, since Tune asks for the current one: where Ray was started, or its copy, may be gone."""
        try:
            Path.cwd()
        except FileNotFoundError:
            os.chdir("/")
        super().__init__(*arguments, **named)

    def __repr__(self) -> str:
        """Return what Ray shows of this actor: the sweep and the pack."""
        first, more = self._order.members[0].node, len(self._order.members) - 1
        return f"{self.sweep}: {first}{f' and {more} more' if more else ''}"

    def setup(self, config: dict[str, Any]) -> None:
        """Keep the first order."""
        self._order: PackOrder = config[ORDER]
        self._watch: NodeWatch | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Keep the next order. The process stays the same, so torch and the backbone are still loaded."""
        self._order = new_config[ORDER]
        return True

    def step(self) -> dict[str, Any]:
        """Train the pack to its end.

        Raises:
            NodeLeaves: The node announced its end before that.
        """
        self._watch = self._watch or NodeWatch()
        ending = run_pack(self._order, self._watch.is_drained)
        if ending.how == "stopped" and self._watch.is_drained():
            raise NodeLeaves(ending)
        return {ENDING: ending, "parts": parts(self._order) if ending.how == "done" else 1, tune.result.DONE: True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: jobs keep their checkpoints in the store."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""


def run_pack(order: PackOrder, node_leaves: Callable[[], bool] = lambda: False) -> Ending:
    """Train the jobs of an order that are not done yet. Commit those that succeed, and mark those that fail.

    Args:
        order: What to train, and where.
        node_leaves: Tells whether the node is about to go, so that jobs must write a checkpoint and stop.
    """
    settled: set[str] = set()
    store = Store(order.store)
    try:
        return _run(order, store, settled, lambda: node_leaves() or _asked_to_stop(store, order.stop_file))
    except StoreUnavailable as error:
        return Ending("away", tuple(member.node for member in order.members if member.node not in settled), str(error))


def _run(order: PackOrder, store: Store, settled: set[str], must_end: Callable[[], bool]) -> Ending:
    if must_end():
        return Ending("stopped", tuple(member.node for member in order.members))
    # A worker may have died after a commit but before Tune heard of it.
    waiting = [member for member in order.members if not store.complete(member.node)]
    pack = _open_all(waiting, store, settled)

    def attempt() -> None:
        """Train the jobs that are not settled yet. A job that a full disk ended continues from its checkpoint at the next attempt."""
        left = {node: member for node, member in pack.items() if node not in settled}
        full = None
        for node, outcome in _train(order, store, left, must_end).items():
            if store.is_taken_over(node):
                raise TakenOver
            if outcome.error is None:
                store.commit(node)
            elif is_full(outcome.error):
                full = outcome.error
                continue
            else:
                store.fail(node, outcome.error, outcome.traceback or outcome.error)
            settled.add(node)
        if full is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), full)

    def progress() -> object:
        return [size_of(member.directory / HISTORY) for member in pack.values()]

    try:
        if pack:
            store.storage.patience.persist(attempt, str(store.scratch), trouble=is_disk_trouble, progress=progress)
    except StoreUnavailable:
        raise
    except Exception as error:
        how = _what_next(error, len(pack))
        for node in [node for node in pack if node not in settled and not store.is_taken_over(node)]:
            if how is None:
                store.fail(node, describe(error), traceback.format_exc())
                settled.add(node)
            else:
                store.publish(node, force=True)
        left = tuple(node for node in pack if node not in settled)
        # Another worker has begun this job anew, so only that worker may judge it.
        return Ending(how or ("stopped" if left else "done"), left)
    return Ending()


def _what_next(error: Exception, size: int) -> Literal["stopped", "halve", "part"] | None:
    """Return what to do with a pack that an error ended. None: its jobs fail, since another attempt would end the same way."""
    if isinstance(error, Stop | TakenOver):
        return "stopped"
    if size > 1 and isinstance(error, OutOfMemory):
        return "halve"
    # A UserError concerns all jobs, for example a backbone that cannot be loaded. One job alone may have caused any other error.
    return "part" if size > 1 and not isinstance(error, UserError) else None


def _open_all(members: Sequence[MemberOrder], store: Store, settled: set[str]) -> dict[str, PackMember]:
    """Open the jobs of a pack. A job whose parents are damaged fails, and the others go on without it."""
    pack = {}
    for member in members:
        try:
            pack[member.node] = _open(member, store)
        except StoreUnavailable:
            raise
        except UserError as error:
            store.fail(member.node, str(error), traceback.format_exc())
            settled.add(member.node)
    return pack


def _train(order: PackOrder, store: Store, pack: Mapping[str, PackMember], must_end: Callable[[], bool]) -> dict[str, Outcome]:
    """Train a pack, and write into each job's log how far it came and how it ended."""
    runtime = order.runtime if order.runtime.cache is None else replace(order.runtime, cache=store.scratch / CACHE)

    def look() -> bool:
        """Write new checkpoints to the store, as often as that is cheap, so that a job is safe before its next evaluation."""
        with contextlib.suppress(StoreUnavailable):
            _publish_news(pack, store)
        return must_end()

    runtime = replace(runtime, should_stop=look)
    with logged({node: member.directory for node, member in pack.items()}):
        logger.info("Begun on %s, process %d: %s", socket.gethostname(), os.getpid(), " + ".join(pack))
        try:
            outcomes = _load(order.train)(list(pack.values()), runtime, _reporter(order, store, pack, must_end))
        except TakenOver:
            for node in pack:
                if not store.is_taken_over(node):  # a job taken over has its log from another worker by now
                    logger.info("Left with its pack, of which another worker has begun a job anew.", extra=about(node))
            raise
        except Stop:
            logger.info("Stopped; whoever begins it again goes on from the last checkpoint.")
            raise
        except Exception as error:
            logger.exception("Failed: %s", describe(error))
            raise
        for node, outcome in zip(pack, outcomes, strict=True):
            if outcome.error is None:
                logger.info("Succeeded.", extra=about(node))
            else:
                logger.error("Failed: %s\n%s", outcome.error, outcome.traceback or "", extra=about(node))
    return dict(zip(pack, outcomes, strict=True))


def _publish_news(pack: Iterable[str], store: Store) -> None:
    """Publish what jobs have written, except those that another worker has taken over: both would write to one directory of the store.

    Raises:
        StoreUnavailable: The store is away. The next call publishes what is missing.
        TakenOver: Another worker has begun a job anew.
    """
    for node in pack:
        if store.is_local or store.has_news(node):
            if store.is_taken_over(node, patient=False):
                raise TakenOver
            store.publish(node, patient=False)


def _asked_to_stop(store: Store, stop_file: Path) -> bool:
    """Tell whether the driver wants jobs to write a checkpoint and stop. Training does not wait for a store that is away."""
    try:
        return store.storage.impatient.exists(stop_file)
    except StoreUnavailable:
        return False


def parts(order: PackOrder) -> int:
    """Return how many passes a step of a pack that has ended took for want of memory. 1: all fitted in one, or this is not known."""
    store = Store(order.store, Patience(0.0))
    found: list[object] = []
    with contextlib.suppress(OSError):
        found = [(store.result(member.node) or {}).get("micro_batches") for member in order.members]
    return max((number for number in found if isinstance(number, int)), default=1)


def describe(error: BaseException) -> str:
    """Return an error in one line: a user error as it is, any other with its type."""
    text, kind = first_line(error), type(error).__name__
    return text if isinstance(error, UserError) or text == kind else f"{kind}: {text}"


def _open(member: MemberOrder, store: Store) -> PackMember:
    worker = {"host": socket.gethostname(), "pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}  # Ray's choice
    record = {**member.record, "provenance": {**member.record.get("provenance", {}), **worker}}
    parents = {name: store.fetch(node) for name, node in member.parents.items()}
    parents |= {adapter.name: Path(adapter.place) for adapter in member.config.external}
    return PackMember(member.config, store.begin(member.node, record), parents)


def _reporter(order: PackOrder, store: Store, pack: Mapping[str, PackMember], must_end: Callable[[], bool]) -> Report:
    orders = {pack[member.node].directory: member for member in order.members if member.node in pack}

    def histories(others: Sequence[str]) -> Iterator[bytes]:
        """Iterate over the rivals' histories. Those in this pack may not have published their newest evaluation yet."""
        for path in (pack[node].directory / HISTORY for node in others if node in pack):
            if path.exists():
                yield path.read_bytes()
        for _, content in store.storage.read_many(store.directory(node) / HISTORY for node in others if node not in pack):
            yield content

    def report(member: PackMember, record: Mapping[str, Any]) -> bool:
        ordered = orders[member.directory]
        if store.is_taken_over(ordered.node):
            raise TakenOver
        logger.info(summary(record), extra=about(ordered.node))
        store.publish(ordered.node)
        if must_end():
            raise Stop
        if not ordered.rivals:
            return False
        return must_stop(member.directory, lambda: histories(ordered.rivals), member.config.optimisation.selection, ordered.metric)

    return report


def _load(train: str) -> Train:
    """Import the training function. This takes seconds for the first pack of a worker, and no time for later packs."""
    module, _, function = train.partition(":")
    return cast("Train", getattr(importlib.import_module(module), function))
