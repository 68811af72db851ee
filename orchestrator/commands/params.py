"""`scalearn params`: how many parameters every method learns, by formula."""

import argparse
import json
from typing import Any

from rich.table import Table

from orchestrator.commands.arguments import make_console
from scalearn.backbone.registry import get_backbone
from scalearn.errors import UserError
from scalearn.methods.parameter_counts import all_counts
from scalearn.methods.registry import get_method

EXAMPLE = "scalearn params --backbone roberta-base --sources 8"


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = commands.add_parser(
        "params",
        help="count what every method learns",
        description="Count the parameters of every method on a backbone, without loading weights.",
    )
    parser.add_argument("--backbone", required=True, metavar="NAME", help="registered name or local directory")
    parser.add_argument(
        "--sources", type=int, default=8, metavar="T", help="number of source adapters, or of a joint method's tasks (default: 8)"
    )
    parser.add_argument("--labels", type=int, default=2, metavar="N", help="outputs of a head (default: 2)")
    parser.add_argument(
        "--reduction", type=float, default=16, metavar="FACTOR", help="hidden size divided by an adapter's width (default: 16)"
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="sources are LoRAs of this rank at queries and values")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the counts.

    Raises:
        UserError: The backbone is unknown, its shape is not known here, or a number is out of range.
    """
    for name, low in (("sources", 1), ("labels", 1), ("reduction", 0.0)):
        value = getattr(arguments, name)
        if not low <= value < 1e9 or value == 0:
            raise UserError(f"--{name} is {value:g}: give a number above 0 (and below a billion).")
    if arguments.lora is not None and not 1 <= arguments.lora < 1e9:
        raise UserError(f"--lora is {arguments.lora}: give the rank of the LoRAs, a number above 0.")
    backbone = get_backbone(arguments.backbone)
    if backbone.shape is None:
        raise UserError(f"The shape of backbone '{backbone.name}' is only known to the hub: give a registered name or a local directory.")
    counts = all_counts(
        backbone.shape,
        sources=arguments.sources,
        labels=arguments.labels,
        reduction_factor=arguments.reduction,
        lora_rank=arguments.lora,
    )
    if arguments.json:
        print(json.dumps(counts, indent=1))
        return 0
    table = Table("method", *(column for column in ("transfer", "source", "head")), title=f"{backbone.name}, {arguments.sources} sources")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, count in counts.items():
        table.add_row(get_method(key).title, *(f"{number:,}" for number in count.values()))
    make_console().print(table)
    return 0
