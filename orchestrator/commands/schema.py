"""`scalearn schema`: the JSON schema of sweep files, for editors."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from orchestrator.definition.json_schema import json_schema

if TYPE_CHECKING:
    from orchestrator.commands.arguments import Commands

EXAMPLE = "scalearn schema > sweep.schema.json"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "print the JSON schema of sweep files, with which an editor completes and checks them"
    parser = commands.add_parser("schema", help=summary, description=summary[:1].upper() + summary[1:] + ".")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
    return 0
