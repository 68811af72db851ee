"""Which sweep's results a command means, by a sweep file, a manifest in a store, or a name."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import Commands, open_store
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

_NAMED = "a sweep file, the name of a shipped sweep, a manifest STORE/sweeps/NAME.json, or with --store the name of a sweep in it"


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
    if text.endswith(".json"):
        root, _, name = ("./" + text).rpartition("/sweeps/") if "://" not in text else text.rpartition("/sweeps/")
        if not root or "/" in name:
            raise UserError(f"{text} is not a sweep's manifest: name a file STORE/sweeps/NAME.json.")
        return Place(Store(root.removeprefix("./") or "."), name.removesuffix(".json"))
    if arguments.store and "/" not in text and not text.endswith((".yaml", ".yml")):
        store = Store(arguments.store)
        if store.load_json(store.manifest_path(text)) is not None:
            return Place(store, text)
    sweep = Sweep.load(text, arguments.set)
    return Place(open_store(sweep, arguments), sweep.name, sweep.tracking.uri)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn errors about results that the user can mend into the errors that the command line prints in one line."""
    from analysis.errors import ResultsError  # it loads pandas, most of a second that other commands save

    try:
        yield
    except ResultsError as error:
        raise UserError(str(error)) from error
