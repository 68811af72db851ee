"""`scalearn prune`: remove from a store what no sweep names."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.filesize import decimal

from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_in
from orchestrator.commands.arguments import Commands, make_console, whole_number
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.claims import Claims
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.drivers.prune import Unnamed, namer, remove, unnamed

_SHOWN = 60
EXAMPLE = "scalearn prune runs"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "remove from a store what no sweep names, and what was set aside; shows it first"
    parser = commands.add_parser("prune", help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
    parser.add_argument("store", metavar="STORE", help="a directory or URL")
    parser.add_argument("sweeps", metavar="SWEEP", nargs="*", help="sweeps whose jobs stay (default: those that were run into the store)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of every sweep file; dots go down; repeatable"
    )
    parser.add_argument(
        "--yes", action="store_true", help="remove it, and do not ask; without it nothing is removed but by a terminal's yes"
    )
    parser.add_argument(
        "--minutes", type=whole_number, default=10, metavar="N", help="keep what was written to in the last N minutes (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Show what may be removed, and remove it if the user wants that.

    Raises:
        UserError: A sweep or manifest cannot be read, so the jobs that it names would be lost.
    """
    store = Store(arguments.store)
    store.check_reachable()
    claims = Claims(Heartbeat(store))
    named = namer(store, _given(store, arguments.sweeps, arguments.set))
    found = unnamed(store, named(), claims.is_free, fresh_seconds=60.0 * arguments.minutes)
    going = [item for item in found if item.kept_because is None]
    if not arguments.json:
        _print(store, found, going)
    removed = remove(store, going, named, claims.is_free) if going and (arguments.yes or _agreed(arguments.json)) else []
    if arguments.json:
        print(
            json.dumps(
                {"store": store.url, "unnamed": [_row(item) for item in found], "removed": [item.place for item in removed]}, indent=2
            )
        )
    elif removed:
        print(f"Removed {_amount(removed)}.")
    elif going:
        print("Nothing was removed: --yes removes it.")
    return 0


def _given(store: Store, sweeps: Sequence[str], overrides: Sequence[str]) -> set[str] | None:
    if not sweeps:
        return None
    return {node for sweep in sweeps for node in graph_in(store, Sweep.load(sweep, overrides)).nodes()}


def _agreed(as_json: bool) -> bool:
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input("Remove all of it? [y/N] ").strip().lower() in ("y", "yes")


def _print(store: Store, found: Sequence[Unnamed], going: Sequence[Unnamed]) -> None:
    console = make_console()
    for item in found[:_SHOWN]:
        what = "stays  " if item.kept_because else "unnamed"
        why = f", stays: {item.kept_because}" if item.kept_because else ""
        console.print(f"{what}  {item.place} ({decimal(item.size)}{why})", soft_wrap=True, highlight=False, markup=False)
    if len(found) > _SHOWN:
        console.print(f"... and {len(found) - _SHOWN} more; --json lists them all", highlight=False)
    if going:
        console.print(f"{_amount(going)} in {store.url} are named by no sweep.", soft_wrap=True, highlight=False)
    else:
        console.print(f"{store.url} holds nothing that no sweep names.", soft_wrap=True, highlight=False)


def _amount(items: Sequence[Unnamed]) -> str:
    jobs = sum(item.is_node for item in items)
    return f"{jobs} jobs and {len(items) - jobs} folders that were set aside ({decimal(sum(item.size for item in items))})"


def _row(item: Unnamed) -> dict[str, Any]:
    row: dict[str, Any] = {"place": item.place, "bytes": item.size}
    return {**row, "stays": item.kept_because} if item.kept_because else row
