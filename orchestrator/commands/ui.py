"""`scalearn ui`: MLflow's pages for a sweep's runs, on loopback."""

import argparse
import sys
import webbrowser
from typing import Any

from orchestrator.commands.arguments import Commands, positive_number
from orchestrator.commands.places import add_results_command, find_place
from orchestrator.tracking.mlflow_server import Server, find_experiment, is_server, tracked_experiment, without_login
from orchestrator.watching.report import one_sentence

EXAMPLE = "scalearn ui quickstart"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_results_command(commands, "ui", "show a sweep's runs in MLflow, on loopback, until Ctrl-C")
    parser.add_argument("--port", type=positive_number, metavar="N", help="port to listen on (default: 5000, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the links")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve the pages until the user interrupts. If a server has the runs already, print the links and exit.

    Raises:
        UserError: The sweep was not logged, or the port is taken.
    """
    place = find_place(arguments, arguments.sweep)
    tracking = tracked_experiment(place.store, place.sweep, place.tracking_uri)
    if is_server(tracking.uri):
        _show(tracking.uri, tracking.experiment, arguments)
        return 0
    server = Server(tracking.uri, arguments.port)
    print(f"Starting MLflow on {server.address}", flush=True)
    with server:
        _show(server.address, tracking.experiment, arguments)
        print("Ctrl-C ends it.", flush=True)
        server.wait()
    return 0


def _show(address: str, experiment: str, arguments: argparse.Namespace) -> None:
    with one_sentence():
        from analysis.report.mlflow_jobs import view_links

        links = view_links(without_login(address), *find_experiment(address, experiment))
    for what, link in links.items():
        print(f"{what}: {link}", flush=True)
    if sys.stdout.isatty() and not arguments.no_browser:
        webbrowser.open(next(iter(links.values())))
