"""`scalearn status`: how far a sweep is, from any process that can read the store."""

import argparse
import json
from typing import Any

from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_sweep
from orchestrator.status import print_status, read_status


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "status", "show how far a sweep is; from any process that can read the store")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the status."""
    sweep, store, graph = open_sweep(arguments)
    status = read_status(sweep.name, graph, store)
    if arguments.json:
        print(json.dumps(status.to_json(), indent=2))
    else:
        print_status(status, make_console())
    return 0
