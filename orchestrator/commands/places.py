"""Which sweep's results a command means, by a sweep file, a manifest in a store, or a name."""

import argparse
from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.as_run import manifest_named
from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import Commands, open_run

_NAMED = "a sweep file, a manifest STORE/sweeps/NAME.json, the name of a sweep that was run into the store, or of a shipped one"


@dataclass(frozen=True)
class Place:
    """A sweep that was run, or is running, in a store."""

    store: Store
    sweep: str
    tracking_uri: str | None = None
    """The tracking URI in the sweep's file. None: the file has none, or no file was named."""


def add_results_command(
    commands: "Commands[Any]", name: str, summary: str, sweeps: tuple[str, ...] = ("sweep",)
) -> argparse.ArgumentParser:
    """Add a command on results, with --set and --store.

    Args:
        commands: Where to add it.
        name: Name of the command.
        summary: What the command does, in one line.
        sweeps: Names of the command's arguments that each name a sweep.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
    for sweep in sweeps:
        parser.add_argument(sweep, metavar=sweep.upper(), help=_NAMED)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as given to `scalearn run`; repeatable")
    parser.add_argument("--store", metavar="DIRECTORY", help="where artifacts are, in place of the file's `store`")
    return parser


def find_place(arguments: argparse.Namespace, text: str) -> Place:
    """Return the sweep that an argument names.

    Args:
        arguments: Arguments with `set` and `store`.
        text: The argument, as the user wrote it.

    Raises:
        UserError: There is no such sweep.
    """
    named = manifest_named(text, arguments.store)
    if named is not None:
        return Place(*named)
    run = open_run(arguments, text)
    return Place(run.store, run.name, run.sweep.tracking.uri)
