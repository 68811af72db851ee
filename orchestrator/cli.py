"""The command line: reads arguments, calls one function per command, and turns errors into one line and an exit code."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from orchestrator.commands import export, params, profile
from orchestrator.cost import CostModel
from orchestrator.forecast import forecast, print_forecast
from orchestrator.graph import Graph
from orchestrator.plan import plan, print_plan
from orchestrator.profile import DEFAULT_PROFILE, load_profile, profile_names
from orchestrator.run import Options, run_sweep
from orchestrator.status import print_status, read_status
from orchestrator.store import Store
from orchestrator.sweep import Sweep, shipped_sweeps
from scalearn.errors import UserError

WRONG_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 some jobs failed, 2 wrong input, 130 interrupted.

    Args:
        arguments: Those after the program's name. None: the process's own.
    """
    try:
        chosen = _parser().parse_args(arguments)
        code: int = chosen.command(chosen)
        return code
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def plan_command(arguments: argparse.Namespace) -> int:
    """Print what a run would do."""
    sweep, store, graph = _open(arguments)
    result = plan(sweep.name, graph, store)
    cost = CostModel(load_profile(arguments.profile), pack=sweep.packing.limit, memory_share=sweep.packing.memory_share)
    expected = forecast(graph, result.cached(), cost, arguments.gpus) if arguments.gpus else None
    if arguments.json:
        print(json.dumps(result.to_json() | ({"forecast": expected} if expected else {}), indent=2))
        return 0
    print_plan(result, _console())
    if expected:
        print_forecast(expected, _console())
    return 0


def run_command(arguments: argparse.Namespace) -> int:
    """Run a sweep."""
    sweep = Sweep.load(arguments.sweep, arguments.set)
    options = Options(arguments.only, arguments.force, arguments.cpus, arguments.gpus, arguments.dashboard)
    return run_sweep(sweep, _store(sweep, arguments), options, _console())


def status_command(arguments: argparse.Namespace) -> int:
    """Print how far a sweep is."""
    sweep, store, graph = _open(arguments)
    status = read_status(sweep.name, graph, store)
    if arguments.json:
        print(json.dumps(status.to_json(), indent=2))
    else:
        print_status(status, _console())
    return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message alone; `--help` shows the usage."""
        raise UserError(f"{message[:1].upper()}{message[1:]} (see {self.prog} --help).")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="scalearn", description="Two-stage transfer learning with scaled source adapters: one YAML file, one table.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", "run a sweep, or resume, extend or repair it; then print its table")
    run.add_argument("--force", action="store_true", help="train again what --only matches (all, without it), done or not")
    run.add_argument("--cpus", type=_count, metavar="N", help="CPUs of a local Ray (default: all that this process may use)")
    run.add_argument("--gpus", type=_count, metavar="N", help="GPUs of a local Ray (default: all that Ray finds)")
    run.add_argument("--dashboard", action="store_true", help="serve Ray's dashboard on loopback during a local run")
    run.set_defaults(command=run_command)

    planned = _command(commands, "plan", "show what a run would do; writes nothing")
    planned.add_argument("--json", action="store_true", help="as JSON")
    planned.add_argument("--gpus", type=_positive, metavar="N", help="forecast time and cost on so many devices of the profile's kind")
    planned.add_argument(
        "--profile",
        default=DEFAULT_PROFILE,
        metavar="FILE",
        help=f"the device's speed, as `scalearn profile --out` wrote it, or one that is shipped: {', '.join(profile_names())} "
        f"(default: {DEFAULT_PROFILE})",
    )
    planned.set_defaults(command=plan_command)

    status = _command(commands, "status", "show how far a sweep is; from any process that can read the store")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=status_command)

    export.add(commands)
    params.add(commands)
    profile.add(commands)
    return parser


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command with the arguments that all commands on a sweep share."""
    parser = commands.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
    parser.add_argument("sweep", metavar="SWEEP", help=f"a sweep file, or the name of a shipped sweep: {', '.join(shipped_sweeps())}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the file; dots go down; repeatable"
    )
    parser.add_argument("--only", metavar="REGEX", help="only the jobs whose node matches, and what they need")
    parser.add_argument("--store", metavar="DIRECTORY", help="where artifacts are, in place of the file's `store`")
    return parser


def _open(arguments: argparse.Namespace) -> tuple[Sweep, Store, Graph]:
    sweep = Sweep.load(arguments.sweep, arguments.set)
    graph = sweep.expand()
    return sweep, _store(sweep, arguments), graph if arguments.only is None else graph.restrict(arguments.only)


def _store(sweep: Sweep, arguments: argparse.Namespace) -> Store:
    return Store(arguments.store or sweep.store)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    number = _count(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give at least 1")
    return number


def _console() -> Console:
    # Without a terminal rich assumes 80 columns, which breaks tables that a log or a file has room for.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _complain(sentence: str) -> int:
    print(f"scalearn: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
