"""`scalearn retry`: run what failed and what it blocked, and nothing else."""

import argparse
from collections import Counter
from typing import Any

from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_store
from orchestrator.commands.run import add_local_options
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.retry import failed_part
from orchestrator.execution.run import Options, run_sweep


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "retry", "run the jobs that failed and those that wait only for them", only=False)
    parser.add_argument("--only", metavar="REGEX", help="of the failed jobs, those whose node matches")
    add_local_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the failed part of a sweep; returns the exit code of that part."""
    sweep = Sweep.load(arguments.sweep, arguments.set)
    store, console, graph = open_store(sweep, arguments), make_console(), sweep.expand()
    chosen = failed_part(graph, store, arguments.only)
    if not chosen:
        matching = "" if arguments.only is None else f" that matches '{arguments.only}'"
        waiting = Counter(store.states(graph.nodes()).values())["pending"]
        rest = f" {waiting} jobs have not run yet: `scalearn run` runs them." if waiting else ""
        console.print(f"No job{matching} failed.{rest}", highlight=False, markup=False, soft_wrap=True)
        return 0
    options = Options(nodes=frozenset(chosen), cpus=arguments.cpus, gpus=arguments.gpus, dashboard=arguments.dashboard)
    return run_sweep(sweep, store, options, console)
