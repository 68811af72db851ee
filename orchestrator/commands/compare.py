"""`scalearn compare`: the differences between two sweeps, and their effect on the scores."""

import argparse
import json
from pathlib import Path
from typing import Any

from orchestrator.commands.arguments import Commands, make_console
from orchestrator.commands.places import add_results_command, find_place
from orchestrator.watching.report import one_sentence
from scalearn.errors import UserError

EXAMPLE = "scalearn compare quickstart other_sweep.yaml --to comparison.md"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "show what differs between two sweeps, and what that did to the scores"
    parser = add_results_command(commands, "compare", summary, ("sweep_a", "sweep_b"))
    parser.add_argument("--rule", default="validation", metavar="RULE", help="how learning rates are chosen, as for `scalearn report`")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--to", type=Path, metavar="FILE", help="also write it as Markdown")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison.

    Raises:
        UserError: A sweep cannot be read, the two have no target in common, or the file cannot be written.
    """
    first, second = (find_place(arguments, text) for text in (arguments.sweep_a, arguments.sweep_b))
    with one_sentence():
        from analysis.tables.compare import compare
        from analysis.tables.render import to_terminal

        found = compare(first.store.url, second.store.url, first.sweep, second.sweep, rule=arguments.rule)
    if arguments.to is not None:
        try:
            arguments.to.parent.mkdir(parents=True, exist_ok=True)
            arguments.to.write_text(found.markdown(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{arguments.to} cannot be written ({error.strerror or error}): name another file.") from error
    if arguments.json:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    console = make_console()
    for line in found.sentences():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for grid in found.grids():
        console.print()
        to_terminal(grid, console)
    return 0
