"""`scalearn cancel`: ask the drivers of a sweep, on any host, to stop as a signal would."""

import argparse
import time
from typing import Any

from orchestrator.artifacts.as_run import load_sweep
from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import Commands, add_sweep_command, positive_seconds
from orchestrator.drivers.heartbeat import Driver, ask_to_stop, drivers
from orchestrator.remote import slurm

STOPPED, STILL_RUNNING = 0, 1
_LOOK_SECONDS = 0.5
EXAMPLE = "scalearn cancel quickstart"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "cancel", "stop a running sweep, from any process that can write to the store", only=False)
    parser.add_argument(
        "--wait", type=positive_seconds, default=120.0, metavar="SECONDS", help="how long to wait until it has stopped (default: 120)"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Take a sweep out of SLURM's queue; ask every driver to stop, and wait for them. Return 1 if one is still at work at the end."""
    sweep, store = load_sweep(arguments.sweep, arguments.set, arguments.store, to_look=True)
    asked = {driver.name: driver for driver in drivers(store, sweep.name)}
    # One that runs without a driver is starting, or between two starts.
    if jobs := slurm.queued(sweep.name, store.url, waiting=bool(asked)):
        slurm.cancel(jobs)
        print(f"Cancelled job {', '.join(jobs)} of SLURM, which was waiting.")
    elif not asked:
        print(f"No driver is at work on sweep {sweep.name} in {store.url}.")
    if not asked:
        return STOPPED
    for driver in asked.values():
        ask_to_stop(store, driver)
        print(f"Asked {_show(driver)} to stop; it runs {len(driver.running)} jobs.", flush=True)
    left = _wait(store, sweep.name, asked, arguments.wait)
    for name, driver in asked.items():
        if name not in left:
            print(f"{_show(driver)[:1].upper()}{_show(driver)[1:]} has stopped.")
    for driver in left.values():
        print(f"After {arguments.wait:g} s {_show(driver)} is still at work: it stops once it can, or end the process there.")
    if not left:
        print("`scalearn run` goes on from the last checkpoints.")
    return STILL_RUNNING if left else STOPPED


def _wait(store: Store, sweep: str, asked: dict[str, Driver], seconds: float) -> dict[str, Driver]:
    """Wait until the drivers are gone. Return those that are not."""
    deadline = time.monotonic() + seconds
    while True:
        there = {driver.name for driver in drivers(store, sweep)}
        left = {name: driver for name, driver in asked.items() if name in there}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_LOOK_SECONDS)


def _show(driver: Driver) -> str:
    return f"{driver.process},"
