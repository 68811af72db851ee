"""`scalearn status`: how far a sweep is, from any process that can read the store."""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_in
from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_run, positive_seconds
from orchestrator.definition.graph import Graph
from orchestrator.remote import slurm
from orchestrator.watching.status import SweepStatus, lines_of, print_status, read_status, show_counts

_EVERY = 5.0
EXAMPLE = "scalearn status quickstart --watch"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "status", "show how far a sweep is; from any process that can read the store")
    parser.add_argument("--done", action="store_true", help="list the finished jobs too")
    parser.add_argument("--json", action="store_true", help="as JSON; with --watch, one line per look")
    parser.add_argument(
        "--watch",
        type=positive_seconds,
        nargs="?",
        const=_EVERY,
        metavar="SECONDS",
        help=f"look again every so often (default: {_EVERY:g}), until nothing is left to run and no driver is at work",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the status, once or again and again."""
    run = open_run(arguments).restricted(arguments.only)
    sweep, store, graph = run.sweep, run.store, run.graph
    console = make_console()
    if arguments.watch is None:
        status = read_status(sweep.name, graph, store)
        if arguments.json:
            print(json.dumps(status.to_json(), indent=2))
        else:
            print_status(status, console, done=arguments.done)
            if waiting := slurm.queued(sweep.name, store.url, waiting=True):
                console.print(f"Waiting in SLURM's queue: job {', '.join(waiting)}.", highlight=False)
        return 0

    def anew() -> Graph:
        """Return the graph with all jobs pending, since reading the status marks them, and with trials that were proposed meanwhile."""
        return graph.restrict("") if sweep.search is None else replace(run, graph=graph_in(store, sweep)).restricted(arguments.only).graph

    if console.is_terminal and not arguments.json:
        _draw(sweep.name, anew, store, arguments.watch, console, done=arguments.done)
    else:
        _write_lines(sweep.name, anew, store, arguments.watch, as_json=arguments.json)
    return 0


def _draw(sweep: str, anew: Callable[[], Graph], store: Store, seconds: float, console: Console, *, done: bool = False) -> None:
    """Redraw the status in place."""
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for look in itertools.count():
            if look:
                time.sleep(seconds)
            status = read_status(sweep, anew(), store)
            shown: list[RenderableType] = [*lines_of(status, done=done), Text(time.strftime("%H:%M:%S"), style="dim")]
            live.update(Group(*shown), refresh=True)
            if _is_over(status):
                return


def _write_lines(sweep: str, anew: Callable[[], Graph], store: Store, seconds: float, *, as_json: bool) -> None:
    """Write a line at each look at which something has changed."""
    before = ""
    for look in itertools.count():
        if look:
            time.sleep(seconds)
        status = read_status(sweep, anew(), store)
        line = json.dumps(status.to_json()) if as_json else show_counts(status)
        if as_json or line != before:
            print(line if as_json else f"{time.strftime('%H:%M:%S')} {line}", flush=True)
        before = line
        if _is_over(status):
            return


def _is_over(status: SweepStatus) -> bool:
    return not status.running and not any(job.state in ("pending", "running") for job in status.jobs)
