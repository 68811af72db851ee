"""`scalearn verify`: check every artifact of a sweep against what was committed, byte by byte."""

import argparse
import json
from collections import Counter
from typing import Any

from rich.text import Text

from orchestrator.artifacts.artifact import Verdict
from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_run
from orchestrator.definition.graph import Graph

WHOLE, DAMAGED = 0, 1

_WORDS = {
    "complete": "whole",
    "corrupt": "damaged",
    "failed": "failed",
    "unfinished": "begun and not finished",
    "absent": "not begun",
}

EXAMPLE = "scalearn verify quickstart"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "verify", "check every artifact of a sweep, byte by byte; writes nothing")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Check and print. Return 1 if an artifact is damaged."""
    run = open_run(arguments).restricted(arguments.only)
    sweep, store, graph = run.sweep, run.store, run.graph
    verdicts = store.verify_all(graph.nodes())
    counts = Counter(verdict.state for verdict in verdicts.values())
    if arguments.json:
        nodes = [_row(node, verdict, graph, verdicts) for node, verdict in verdicts.items()]
        print(json.dumps({"sweep": sweep.name, "by_state": dict(counts), "nodes": nodes}, indent=2))
    else:
        _print(sweep.name, graph, verdicts, counts)
    return DAMAGED if counts["corrupt"] else WHOLE


def _print(sweep: str, graph: Graph, verdicts: dict[str, Verdict], counts: "Counter[Any]") -> None:
    console = make_console()
    for node, verdict in verdicts.items():
        if verdict.state == "corrupt":
            console.print(Text(f"damaged  {node}: {verdict.reason}", style="red"), soft_wrap=True, highlight=False)
            for below in _built_on(node, graph, verdicts):
                console.print(f"         {below} is built on it", soft_wrap=True, highlight=False, markup=False)
    found = ", ".join(f"{counts[state]} {word}" for state, word in _WORDS.items() if counts[state])
    console.print(f"{sweep}: {len(verdicts)} jobs: {found}.", soft_wrap=True, highlight=False)
    if counts["corrupt"]:
        console.print("`scalearn run` sets aside what is damaged and trains it again.", highlight=False)


def _row(node: str, verdict: Verdict, graph: Graph, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    row: dict[str, Any] = {"node": node, "state": verdict.state}
    if verdict.reason:
        row["reason"] = verdict.reason
    if verdict.state == "corrupt":
        row["built_on_it"] = _built_on(node, graph, verdicts)
    return row


def _built_on(node: str, graph: Graph, verdicts: dict[str, Verdict]) -> list[str]:
    """Return the finished jobs that read an artifact. It cannot be known whether they read it before it was damaged."""
    return sorted(below for below in graph.below(node) if verdicts[below].state == "complete" and node in graph.parents(below))
