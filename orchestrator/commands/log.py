"""`scalearn log`: a sweep's metrics for another tracker than MLflow, from the store, at any time."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.commands.arguments import Commands, add_sweep_command, open_run
from scalearn.errors import UserError

KINDS = ("tensorboard",)
EXAMPLE = "scalearn log quickstart --to tensorboard events"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "log", "write what jobs have logged so far as files for TensorBoard")
    parser.add_argument("--to", required=True, nargs=2, metavar=("tensorboard", "DIRECTORY"), help="the form, and the directory to write")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files. Say how to look at them.

    Raises:
        UserError: There is no such sweep or form, none of its jobs has begun, or the directory cannot be written.
    """
    kind, directory = arguments.to
    if kind not in KINDS:
        raise UserError(f"--to {kind}: the form is {' or '.join(KINDS)}, and the directory follows it.")
    run = open_run(arguments).restricted(arguments.only)
    from orchestrator.tracking.tensorboard import write_events  # it loads numpy and protobuf, which other commands save

    written = write_events(run.store, run.graph, Path(directory))
    if not written:
        raise UserError(f"No job of {run.name} has logged anything in {run.store.url}: run the sweep first.")
    print(f"Wrote {written} jobs: tensorboard --logdir {directory}")
    return 0
