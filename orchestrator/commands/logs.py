"""`scalearn logs`: one job's log, from any machine that can read the store."""

import argparse
import time
from typing import Any

from orchestrator.artifacts.job_log import LOG, follow
from orchestrator.artifacts.store import FAILED, TRACEBACK, Store
from orchestrator.commands.arguments import Commands, add_sweep_command, find_job, open_run
from orchestrator.drivers.heartbeat import drivers
from scalearn.errors import UserError

_LOOK_SECONDS = 0.5
_MOST_BYTES = 1 << 20
"""Bytes read at a time. A log may be larger than memory, and behind a URL no part is fetched twice."""

EXAMPLE = "scalearn logs quickstart domains/minilm/source/adapter/apple/lr3e-03-seed0 --follow"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "logs", "show one job's log; from any process that can read the store", only=False)
    parser.add_argument("node", metavar="NODE", help="the job, as `scalearn status` names it; its fingerprint may be left out")
    parser.add_argument("--follow", "-f", action="store_true", help="go on showing what is added, until the job has ended")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the log, and how a failed job ended.

    Raises:
        UserError: There is no such job, or it has no log.
    """
    run = open_run(arguments)
    sweep, store, node = run.sweep, run.store, find_job(run.graph, arguments.node).node

    def read(start: int) -> tuple[bytes, int]:
        return store.storage.read_from(store.directory(node) / LOG, start, _MOST_BYTES)

    if not store.storage.exists(store.directory(node) / LOG) and not arguments.follow and store.read_json(node, FAILED) is None:
        raise UserError(f"{node} has no log in {store.root}: it was not begun; `scalearn status` shows where the sweep stands.")

    def ended() -> bool:
        return not arguments.follow or _ended(store, sweep.name, node)

    for text in follow(read, ended, lambda: time.sleep(_LOOK_SECONDS)):
        print(text, end="", flush=True)
    if (failure := store.read_json(node, FAILED)) is not None:
        print(f"Failed: {failure.get('error')} ({store.directory(node) / TRACEBACK})")
    return 0


def _ended(store: Store, sweep: str, node: str) -> bool:
    """Tell whether a job is done, or has failed and is not being tried again at present."""
    return store.state(node) == "succeeded" or (
        store.state(node) == "failed" and not any(node in driver.running for driver in drivers(store, sweep))
    )
