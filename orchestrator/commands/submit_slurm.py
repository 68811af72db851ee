"""`scalearn submit --slurm`: put a sweep into SLURM's queue."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import positive_number, whole_number
from orchestrator.definition.sweep import Sweep
from orchestrator.remote.slurm import Request, batch_script, queue
from scalearn.errors import UserError

_OF_RAY = ("address", "runtime_env_json", "runtime_env_file", "follow", "no_wait")
_OF_SLURM = ("dry_run", "nodes", "gpus_per_node", "cpus_per_node", "time", "partition", "account", "requeue", "sbatch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a job of SLURM to those of `submit`."""
    group = parser.add_argument_group("SLURM")
    group.add_argument("--slurm", action="store_true", help="queue the sweep as a batch job of SLURM, on a Ray of its own, and leave")
    group.add_argument("--dry-run", action="store_true", help="print the batch script instead of queueing it")
    group.add_argument("--nodes", type=positive_number, metavar="N", help="nodes of the job (default: 1)")
    group.add_argument("--gpus-per-node", type=whole_number, metavar="G", help="GPUs on each node (default: 0)")
    group.add_argument(
        "--cpus-per-node", type=positive_number, metavar="C", help="CPUs on each node (default: one for each GPU, at least 1)"
    )
    group.add_argument("--time", metavar="T", help="time limit, in SLURM's form: 90, 12:00:00 or 2-00:00:00")
    group.add_argument("--partition", metavar="P", help="the partition")
    group.add_argument("--account", metavar="A", help="the account that pays")
    group.add_argument("--requeue", action="store_true", help="at the time limit, queue the sweep again until it is done")
    group.add_argument(
        "--sbatch", action="append", metavar="OPTION", help="a further option of sbatch, such as --sbatch=--qos=high; repeatable"
    )


def refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse options of a Ray cluster beside --slurm, and options of SLURM without it.

    Raises:
        UserError: There is one.
    """
    wrong = _OF_RAY if arguments.slurm else _OF_SLURM
    given = [name for name in wrong if getattr(arguments, name)]
    if arguments.slurm and arguments.working_dir != Path():
        given.append("working_dir")
    if given:
        where = "with --slurm: it is for Ray clusters that are up" if arguments.slurm else "without --slurm"
        raise UserError(f"--{given[0].replace('_', '-')} has no meaning {where}.")


def submit(arguments: argparse.Namespace, sweep: Sweep, words: list[str]) -> int:
    """Queue a sweep, or print its batch script.

    Args:
        arguments: The options.
        sweep: The sweep.
        words: The arguments of `scalearn` that run it.

    Raises:
        UserError: An option does not suit the others, or SLURM refuses the job.
    """
    if arguments.force and arguments.requeue:
        raise UserError("--force and --requeue do not go together: each start would train everything again.")
    request = Request(
        nodes=arguments.nodes or 1,
        gpus_per_node=arguments.gpus_per_node or 0,
        cpus_per_node=arguments.cpus_per_node,
        time=arguments.time,
        partition=arguments.partition,
        account=arguments.account,
        requeue=arguments.requeue,
        others=tuple(arguments.sbatch or ()),
    )
    script = batch_script(request, sweep.name, Store(arguments.store or sweep.store).url, os.getcwd(), [*_program(), *words])
    if arguments.dry_run:
        print(script, end="")
        return 0
    job = queue(script)
    same = [word for option in arguments.set for word in ("--set", option)] + (["--store", arguments.store] if arguments.store else [])
    print(f"Queued as job {job} of SLURM; what it prints goes to slurm-{job}.out.")
    for purpose, command in (("To look: ", "status"), ("To stop: ", "cancel")):
        print(f"{purpose} {shlex.join(['scalearn', command, arguments.sweep, *same])}")
    return 0


def _program() -> list[str]:
    """Return how the nodes call `scalearn`: by the interpreter at hand, which they see under the same path."""
    return [sys.executable, "-m", "orchestrator.cli"]
