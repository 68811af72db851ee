"""`scalearn plan`: what a run would do, and what it would cost."""

import argparse
import json
from typing import Any

from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, open_sweep, positive_number
from orchestrator.planning.cost import cost_of
from orchestrator.planning.forecast import forecast, print_forecast
from orchestrator.planning.plan import plan, print_plan
from orchestrator.planning.profile import DEFAULT_PROFILE, load_profile, profile_names


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "plan", "show what a run would do; writes nothing")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--gpus", type=positive_number, metavar="N", help="forecast time and cost on so many devices of the profile's kind")
    parser.add_argument(
        "--profile",
        default=DEFAULT_PROFILE,
        metavar="FILE",
        help=f"the device's speed, as `scalearn profile --out` wrote it, or one that is shipped: {', '.join(profile_names())} "
        f"(default: {DEFAULT_PROFILE})",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    sweep, store, graph = open_sweep(arguments)
    result = plan(sweep.name, graph, store.glance(graph.nodes()))
    cost = cost_of(sweep, load_profile(arguments.profile))
    expected = forecast(graph, result.cached(), cost, arguments.gpus, sweep.resources) if arguments.gpus else None
    if arguments.json:
        print(json.dumps(result.to_json() | ({"forecast": expected} if expected else {}), indent=2))
        return 0
    print_plan(result, make_console())
    if expected:
        print_forecast(expected, make_console())
    return 0
