"""A sweep as a batch job of SLURM: the script, putting it into the queue, and finding it there."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scalearn.errors import UserError

WARNING_SECONDS = 120
"""Seconds before its time limit at which SLURM warns a job. Checkpoints take a few of them, and SLURM may warn a minute early."""


@dataclass(frozen=True)
class Request:
    """What a sweep asks of SLURM. None: SLURM's own default."""

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: int | None = None
    """None: one for each GPU, since a job takes one CPU; at least one."""
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    requeue: bool = False
    """Whether the sweep goes back into the queue when its time limit is near."""
    others: tuple[str, ...] = ()
    """Further options of `sbatch`. They win over those above."""


def batch_script(request: Request, sweep: str, store: str, directory: str, command: Sequence[str]) -> str:
    """Return the script of a batch job.

    Args:
        request: What it asks for.
        sweep: The sweep's name, which becomes the job's.
        store: The store's directory or URL, by which `queued` finds the job.
        directory: Where the job runs. All nodes see it under this path.
        command: `scalearn run` and its arguments. It runs on the first node, with a Ray over all of them.
    """
    options = {
        "job-name": sweep,
        "comment": _comment(sweep, store),
        "chdir": directory,
        "nodes": request.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": request.cpus_per_node or max(1, request.gpus_per_node),
        "gpus-per-node": request.gpus_per_node or None,
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
        "signal": f"B:USR1@{WARNING_SECONDS}",  # to the script alone, since Ray must live until the sweep has its checkpoints
        "open-mode": "append",  # one log for all starts
    }
    lines = [f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    lines += ["--requeue" if request.requeue else "--no-requeue", *request.others]
    program = [sys.executable, "-m", "orchestrator.remote.allocation", *(["--requeue"] if request.requeue else []), "--", *command]
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), f"exec {shlex.join(program)}", ""])


def queue(script: str) -> str:
    """Put a batch script into SLURM's queue. Return the job's number.

    Raises:
        UserError: There is no SLURM here, or it refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--slurm needs the program sbatch, and it is not on the PATH: submit from a login node, or use --dry-run.")
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    if done.returncode:
        reasons = "; ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines())
        raise UserError(f"SLURM does not take the job: {reasons}.")
    return done.stdout.strip().partition(";")[0]  # what follows is the name of the cluster


def queued(sweep: str, store: str, *, waiting: bool) -> list[str]:
    """Return the numbers of this user's jobs of SLURM that run a sweep into a store.

    Args:
        sweep: The sweep's name.
        store: The store's directory or URL.
        waiting: Whether only those matter that wait for their turn.
    """
    if shutil.which("squeue") is None:
        return []
    states = "PENDING" if waiting else "PENDING,CONFIGURING,RUNNING"
    command = ["squeue", "--me", "--noheader", f"--states={states}", "--format=%A %k"]
    done = subprocess.run(command, capture_output=True, text=True)
    jobs = [line.strip().partition(" ") for line in done.stdout.splitlines()]
    return [number for number, _, comment in jobs if comment == _comment(sweep, store)]


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs out of SLURM's queue.

    Raises:
        UserError: SLURM refuses.
    """
    done = subprocess.run(["scancel", *jobs], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"SLURM does not cancel job {' '.join(jobs)}: {' '.join(done.stderr.split())}")


def _comment(sweep: str, store: str) -> str:
    return f"scalearn:{sweep}:{store}"
