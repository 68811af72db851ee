"""`scalearn report`: a sweep's tables, statistics and plots as one folder."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.commands.arguments import Commands, make_console
from orchestrator.commands.places import add_results_command, find_place
from orchestrator.watching.report import write_report

EXAMPLE = "scalearn report quickstart"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_results_command(commands, "report", "write a sweep's tables, statistics and plots as one folder with a page")
    parser.add_argument("--to", type=Path, metavar="DIRECTORY", help="folder to write (default: reports/SWEEP in the store)")
    parser.add_argument("--against", choices=["paper"], help="set the published scores beside one's own, with the difference")
    parser.add_argument(
        "--rule",
        default="validation",
        metavar="RULE",
        help="how learning rates are chosen: `validation` (default; by validation score), or a number: fixed at that",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report. Print the table and the place of the page.

    Raises:
        UserError: There is no such sweep, nothing to report, nothing published for its benchmark, or the folder cannot be written.
    """
    place = find_place(arguments, arguments.sweep)
    console = make_console()
    page, table = write_report(place.store, place.sweep, arguments.to, rule=arguments.rule, against=arguments.against)
    from analysis.tables.render import to_terminal  # loaded by now

    to_terminal(table, console)
    console.print(f"Report: {page}", highlight=False, soft_wrap=True, markup=False)
    return 0
