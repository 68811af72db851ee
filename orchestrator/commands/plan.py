"""`scalearn plan`: what a run would do, and what it would cost."""

import argparse
import json
from typing import Any

from orchestrator.artifacts.as_run import load_sweep
from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_ahead, graph_in
from orchestrator.commands.arguments import Commands, add_sweep_command, make_console, positive_amount, positive_number
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.forecast.forecast import forecast, print_forecast
from orchestrator.profiling.profile import DEFAULT_PROFILE, load_profile, profile_names
from orchestrator.scheduling.cost import cost_of
from orchestrator.watching.plan import plan_sweep, print_plan

EXAMPLE = "scalearn plan quickstart --gpus 8"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "plan", "show what a run would do; writes nothing")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--gpus", type=positive_number, metavar="N", help="forecast time and cost on so many devices of the profile's kind")
    parser.add_argument("--price-per-hour", type=positive_amount, metavar="P", help="price of a device hour (without --gpus: on one)")
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
    sweep, store = load_sweep(arguments.sweep, arguments.set, arguments.store)
    graph = graph_in(store, sweep)
    graph = graph if arguments.only is None else graph.restrict(arguments.only)
    ahead = _ahead(arguments, sweep, store, graph)
    result = plan_sweep(sweep, graph, store, ahead)
    cost = cost_of(sweep, load_profile(arguments.profile))
    devices = arguments.gpus or (1 if arguments.price_per_hour else None)
    expected = forecast(ahead, result.cached(), cost, devices, sweep.resources, price=arguments.price_per_hour) if devices else None
    if arguments.json:
        print(json.dumps(result.to_json() | ({"forecast": expected} if expected else {}), indent=2))
        return 0
    print_plan(result, make_console())
    if expected:
        print_forecast(expected, make_console())
    return 0


def _ahead(arguments: argparse.Namespace, sweep: Sweep, store: Store, graph: Graph) -> Graph:
    """Return the graph with stand-ins for the trials that are still to be proposed. Only a run of the whole sweep proposes any."""
    return (graph_ahead(store, sweep) if arguments.only is None else None) or graph
