"""The arguments that commands on a sweep share, and how they are read."""

import argparse
import difflib
import sys
from typing import Any

import shtab
from rich.console import Console

from orchestrator.artifacts.as_run import Run, find_run
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.identity import is_called
from orchestrator.definition.sweep import shipped_sweeps
from orchestrator.terminal import SafeConsole
from scalearn.errors import UserError

_MOST = 1_000_000

Commands = argparse._SubParsersAction  # argparse has no public name for what `add_subparsers` returns


def add_sweep_command(commands: "Commands[Any]", name: str, summary: str, *, only: bool = True) -> argparse.ArgumentParser:
    """Add a command on a sweep, with the arguments that such commands share: SWEEP, --set, --store and, if `only` is true, --only."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
    sweep = parser.add_argument(
        "sweep",
        metavar="SWEEP",
        help="a sweep file, a manifest STORE/sweeps/NAME.json, the name of a sweep that was run into the store, or of a shipped one: "
        + ", ".join(shipped_sweeps()),
    )
    sweep.complete = shtab.FILE  # type: ignore[attr-defined]  # what a shell offers
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the file; dots go down; repeatable"
    )
    if only:
        parser.add_argument("--only", metavar="REGEX", help="only the jobs whose node matches, and what they need")
    store = parser.add_argument("--store", metavar="DIRECTORY", help="where artifacts are, in place of the file's `store`")
    store.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser


def open_run(arguments: argparse.Namespace, text: str | None = None) -> Run:
    """Return the sweep that the arguments name, as it was run. Tell the user on stderr if its file says other jobs.

    Args:
        arguments: Arguments with `sweep`, `set` and `store`.
        text: What names the sweep. None: the argument `sweep`.

    Raises:
        UserError: There is no such sweep, or a key is wrong.
    """
    run = find_run(text or arguments.sweep, arguments.set, arguments.store)
    if run.remark:
        print(f"scalearn: {run.remark}", file=sys.stderr)
    return run


def find_job(graph: Graph, name: str) -> Job:
    """Return the job of a node, whose fingerprint may be left out.

    Raises:
        UserError: There is no such job.
    """
    matching = [node for node in graph.nodes() if is_called(node, name)]
    if len(matching) != 1:
        near = difflib.get_close_matches(name, graph.nodes(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ": `scalearn status --json` lists them."
        raise UserError(f"The sweep has no node '{name}'{hint}")
    return graph.job(matching[0])


def whole_number(text: str) -> int:
    """Read a whole number from 0 to a million, which is more than commands ever count."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
    if len(text) > 7 or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"give at most {_MOST:,}")
    return int(text)


def positive_number(text: str) -> int:
    """Read a whole number of at least 1."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give at least 1")
    return number


def positive_seconds(text: str) -> float:
    """Read a duration above 0 and of at most a day, in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def positive_amount(text: str) -> float:
    """Read a number above 0 and of at most a million, such as hours or a price."""
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount <= _MOST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number above 0 and of at most {_MOST:,}")
    return amount


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run's budget."""
    parser.add_argument("--max-hours", type=positive_amount, metavar="H", help="end after so many hours, with checkpoints")
    parser.add_argument("--max-device-hours", type=positive_amount, metavar="H", help="end after so many hours of all devices together")


def make_console() -> Console:
    """Return a console that does not break wide tables in a log or a file, for which rich assumes 80 columns."""
    output = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # otherwise rich would draw through the stream that makes text safe
    return SafeConsole(file=output) if output.isatty() else SafeConsole(file=output, width=160)
