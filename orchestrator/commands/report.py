"""`scalearn report`: a sweep's tables, statistics and plots as one folder."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.commands.arguments import Commands, make_console
from orchestrator.commands.places import add_results_command, find_place, one_sentence
from orchestrator.watching.report import report_folder

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
    with one_sentence():
        import analysis
        from analysis.published import published_scores
        from analysis.reading.load import read_sweep
        from analysis.reading.selection import check_rule
        from analysis.report.report import write_report_of
        from analysis.tables.grid import layout

        rule = check_rule(arguments.rule)
        # A report with its own options must not replace the report that `run` keeps up to date.
        variant = "-".join(
            filter(None, [arguments.against and f"against-{arguments.against}", "" if rule == "validation" else f"lr{rule:g}"])
        )
        folder = arguments.to or report_folder(place.store, place.sweep, variant)
        stored = read_sweep(place.store.url, place.sweep)
        page = write_report_of(stored, folder, rule=rule, against=arguments.against)
        table = analysis.benchmark_table(stored.frame, rule)
        published = published_scores(table.benchmark) if arguments.against else None
        analysis.render.to_terminal(layout(table, against=published), console)
    console.print(f"Report: {page}", highlight=False, soft_wrap=True, markup=False)
    return 0
