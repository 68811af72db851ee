"""`scalearn run`: run a sweep, or resume, extend or repair it."""

import argparse
from typing import Any

from orchestrator.artifacts.as_run import load_sweep
from orchestrator.commands.arguments import Commands, add_budget_options, add_sweep_command, make_console, whole_number
from orchestrator.execution.options import Options
from orchestrator.execution.run import run_sweep

EXAMPLE = "scalearn run quickstart --set training.epochs=2"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "run", "run a sweep, or resume, extend or repair it; then print its table")
    parser.add_argument("--force", action="store_true", help="train again what --only matches (all, without it), done or not")
    add_budget_options(parser)
    add_local_options(parser)
    parser.set_defaults(command=run)


def add_local_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a local Ray."""
    parser.add_argument("--cpus", type=whole_number, metavar="N", help="CPUs of a local Ray (default: all that this process may use)")
    parser.add_argument("--gpus", type=whole_number, metavar="N", help="GPUs of a local Ray (default: all that Ray finds)")
    parser.add_argument("--dashboard", action="store_true", help="serve Ray's dashboard on loopback during a local run")


def run(arguments: argparse.Namespace) -> int:
    """Run a sweep. Return its exit code."""
    sweep, store = load_sweep(arguments.sweep, arguments.set, arguments.store)
    options = Options(
        only=arguments.only,
        force=arguments.force,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        dashboard=arguments.dashboard,
        hours=arguments.max_hours,
        device_hours=arguments.max_device_hours,
    )
    return run_sweep(sweep, store, options, make_console())
