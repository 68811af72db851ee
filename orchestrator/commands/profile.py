"""`scalearn profile`: measure this device, for plans and packs."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.commands.arguments import make_console, positive_number, positive_seconds
from orchestrator.profiling.deadline import SECONDS
from orchestrator.profiling.profile import PRECISIONS, Profile, to_json
from scalearn.errors import UserError

EXAMPLE = "scalearn profile --seconds 60 --out mine.json"


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = commands.add_parser(
        "profile",
        help="measure how fast this device trains",
        description="Measure start-up, seconds per step and memory per token on the device at hand, in under two minutes: "
        "what tells most first, and what there was no time for is named.",
    )
    parser.add_argument(
        "--backbone", action="append", metavar="NAME", help="registered name or local directory; repeatable (default: minilm)"
    )
    parser.add_argument(
        "--precision", action="append", choices=("auto", *PRECISIONS), help="as a sweep says it; repeatable (default: auto)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        default=SECONDS,
        metavar="N",
        help=f"time for all of them together; what a profile cannot do without may take longer (default: {SECONDS:g})",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU where there is one")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="CPU threads of one worker (default: half of the CPUs)")
    parser.add_argument("--quick", action="store_true", help="a few seconds and rough figures")
    parser.add_argument("--out", metavar="FILE", help="write the profile here, for `scalearn plan --profile FILE`")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        UserError: The backbone or the device is not available, or the file cannot be written.
    """
    cpus = len(os.sched_getaffinity(0))
    if arguments.threads is not None and arguments.threads > cpus:
        raise UserError(f"--threads is {arguments.threads}, but this process may use {cpus} CPUs: give at most so many.")
    from orchestrator.profiling.measure import measure_profile  # it loads torch, seconds that other commands save

    began = time.monotonic()
    profile = measure_profile(
        arguments.backbone or ["minilm"],
        arguments.precision or ["auto"],
        device=arguments.device,
        threads=arguments.threads,
        seconds=arguments.seconds,
        quick=arguments.quick,
    )
    if arguments.out:
        try:
            Path(arguments.out).write_text(json.dumps(to_json(profile), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--out {arguments.out} cannot be written ({error.strerror}): name a file in a directory that exists."
            ) from None
    console = make_console()
    print_profile(profile, console)
    console.print(f"Measured in {time.monotonic() - began:.0f} s.", highlight=False)
    return 0


def print_profile(profile: Profile, console: Console) -> None:
    """Print what was measured, one line per method and pack."""
    console.print(f"{profile.device}: a worker starts in {profile.worker_seconds:g} s", highlight=False)
    console.print(profile.note, highlight=False, soft_wrap=True, markup=False)
    for rates in profile.rates:
        console.print(
            f"{rates.backbone} in {rates.precision}: {rates.job_seconds:g} s around a job, {rates.bytes_per_token / 1e3:.0f} kB per token",
            highlight=False,
        )
        for method, pace in rates.train.items():
            for jobs, rows, length, seconds in pace.measured:
                tokens = jobs * rows * length
                rate = f"{seconds * 1e3:.0f} ms a step, {tokens / seconds:,.0f} tokens/s"
                console.print(f"  {method:<14} {jobs:>2} x {rows} rows x {length} tokens: {rate}", highlight=False)
            console.print(f"  {method:<14} packs of up to {pace.largest_pack} pay", highlight=False)
