"""What a worker does: train one pack, and commit or mark down each of its jobs. A warm worker runs pack after pack."""

import importlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ray import tune

from orchestrator.early import must_stop
from orchestrator.job_log import about, logged
from orchestrator.run_facts import summary
from orchestrator.store import HISTORY, Store
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.runtime import Outcome, PackMember, Report, Runtime, Stop
from scalearn.tasks import task_of

logger = logging.getLogger(__name__)

ORDER = "order"
"""Key of a trial's configuration under which its `PackOrder` lies."""

Train = Callable[[Sequence[PackMember], Runtime, Report], list[Outcome]]


@dataclass(frozen=True)
class MemberOrder:
    """One job of a pack, as the driver hands it out."""

    node: str
    config: JobConfig
    record: Mapping[str, Any]
    """What `job.json` is to say."""
    parents: Mapping[str, str]
    """Node of every parent, by the name under which training reads it."""
    rivals: tuple[str, ...] = ()
    """Nodes that the job is compared with for early stopping."""


@dataclass(frozen=True)
class PackOrder:
    """All that a worker needs to know."""

    members: tuple[MemberOrder, ...]
    store: str
    train: str
    """The training function, as `module:function`."""
    runtime: Runtime
    stop_file: Path
    """When this file exists, jobs checkpoint and leave."""


class PackTrainable(tune.Trainable):
    """A trial: one step, which is one pack.

    `setup` and `reset_config` only remember the order. Ray may call them in two processes for one trial, so they must not touch the store.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Remember the first order."""
        self._order: PackOrder = config[ORDER]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next order in the same process, with torch and the backbone still loaded."""
        self._order = new_config[ORDER]
        return True

    def step(self) -> dict[str, Any]:
        """Train the pack to its end."""
        stopped = run_pack(self._order)
        return {"stopped": stopped, "parts": 1 if stopped else parts(self._order), tune.result.DONE: True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: jobs keep their checkpoints in the store."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""


def run_pack(order: PackOrder) -> bool:
    """Train the jobs of an order that are not done yet; commit those that succeed, mark those that fail.

    Returns:
        Whether the pack was stopped before its end; its jobs then wait in the store, checkpointed.
    """
    store = Store(order.store)
    # A worker may have died after a commit and before Tune heard of it.
    waiting = [member for member in order.members if not store.complete(member.node)]
    if not waiting:
        return False
    pack = {member.node: _open(member, store) for member in waiting}
    try:
        with logged({node: member.directory for node, member in pack.items()}):
            logger.info("Begun on %s, process %d: %s", socket.gethostname(), os.getpid(), " + ".join(pack))
            outcomes = _train(order, store, pack)
        for node, outcome in outcomes.items():
            if outcome.error is None:
                store.commit(node)
            else:
                store.fail(node, outcome.error, outcome.traceback or outcome.error)
    except Stop:
        return True
    except Exception as error:
        # What escapes the training function concerns the whole pack; trying again would end the same way.
        for node in pack:
            if not store.complete(node):
                store.fail(node, describe(error), traceback.format_exc())
    return False


def _train(order: PackOrder, store: Store, pack: Mapping[str, PackMember]) -> dict[str, Outcome]:
    """Train, and write into each job's log how far it came and how it ended."""
    nodes = {member.directory: node for node, member in pack.items()}
    judge = _reporter(order, store)

    def report(member: PackMember, record: Mapping[str, Any]) -> bool | None:
        logger.info(summary(record), extra=about(nodes[member.directory]))
        return judge(member, record)

    try:
        outcomes = _load(order.train)(list(pack.values()), order.runtime, report)
    except Stop:
        logger.info("Stopped; the next run goes on from the last checkpoint.")
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


def parts(order: PackOrder) -> int:
    """Return into how many passes memory forced a step of a pack that has ended: 1 where all of it fitted."""
    store = Store(order.store)
    return max(((store.result(member.node) or {}).get("micro_batches") or 1 for member in order.members), default=1)


def describe(error: BaseException) -> str:
    """Return an error in one line: a user's as it is, another with its type."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _open(member: MemberOrder, store: Store) -> PackMember:
    worker = {"host": socket.gethostname(), "pid": os.getpid()}
    record = {**member.record, "provenance": {**member.record.get("provenance", {}), **worker}}
    parents = {name: store.directory(node) for name, node in member.parents.items()}
    parents |= {adapter.name: Path(adapter.place) for adapter in member.config.external}
    return PackMember(member.config, store.begin(member.node, record), parents)


def _reporter(order: PackOrder, store: Store) -> Report:
    compared = {store.directory(member.node): [store.directory(node) / HISTORY for node in member.rivals] for member in order.members}

    def report(member: PackMember, record: Mapping[str, Any]) -> bool:
        if order.stop_file.exists():
            raise Stop
        others = compared.get(member.directory)
        if not others:
            return False
        metric = task_of(member.config.data[0]).primary_metric
        return must_stop(member.directory / HISTORY, others, member.config.optimisation.selection, metric)

    return report


def _load(train: str) -> Train:
    """Import the training function: seconds for the first pack of a worker, nothing for the others."""
    module, _, function = train.partition(":")
    return cast("Train", getattr(importlib.import_module(module), function))
