"""`scalearn retry`: run the jobs that failed and those that they blocked, and no others."""

import argparse
from collections import Counter
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_run
from orchestrator.commands.run import add_local_options
from orchestrator.definition.graph import Graph, node_pattern
from orchestrator.execution.options import Options
from orchestrator.execution.run import run_sweep

EXAMPLE = "scalearn retry quickstart --only /apple/"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "retry", "run the jobs that failed and those that wait only for them", only=False)
    parser.add_argument("--only", metavar="REGEX", help="of the failed jobs, those whose node matches")
    add_local_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the failed part of a sweep. Return the exit code of that part."""
    run = open_run(arguments)
    sweep, store, graph, console = run.sweep, run.store, run.graph, make_console()
    chosen = failed_part(graph, store, arguments.only)
    if not chosen:
        matching = "" if arguments.only is None else f" that matches '{arguments.only}'"
        waiting = Counter(store.states(graph.nodes()).values())["pending"]
        rest = f" {waiting} jobs have not run yet: `scalearn run` runs them." if waiting else ""
        console.print(f"No job{matching} failed.{rest}", highlight=False, markup=False, soft_wrap=True)
        return 0
    options = Options(nodes=frozenset(chosen), cpus=arguments.cpus, gpus=arguments.gpus, dashboard=arguments.dashboard)
    return run_sweep(sweep, store, options, console)


def failed_part(graph: Graph, store: Store, only: str | None = None) -> tuple[str, ...]:
    """Return the failed jobs, and the jobs that only failed jobs keep from running.

    Args:
        graph: All jobs of the sweep.
        store: Where their artifacts are.
        only: Regular expression. Only failed jobs whose node matches it count.

    Returns:
        Nodes, with parents before children. There are none if no job failed.

    Raises:
        UserError: `only` is not a regular expression.
    """
    expression = node_pattern(only or "")
    states = store.states(graph.nodes())
    failed = {node for node, state in states.items() if state == "failed" and expression.search(node)}
    chosen: dict[str, None] = {}
    for node in graph.nodes():
        waits_for = [parent for parent in graph.parents(node) if states[parent] != "succeeded"]
        blocked = states[node] == "pending" and bool(waits_for) and all(parent in chosen for parent in waits_for)
        if node in failed or blocked:
            chosen[node] = None
    return tuple(chosen)
