"""`scalearn submit`: run a sweep as a job of a Ray cluster, follow it, and exit with the sweep's own exit code; or queue it in SLURM."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.commands import submit_slurm
from orchestrator.commands.arguments import Commands, add_budget_options, add_sweep_command
from orchestrator.definition.identity import safe_segment
from orchestrator.definition.sweep import Sweep
from orchestrator.remote.job_server import LOCAL, check_store, connect, submit
from scalearn.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DETACHED = 130
EXAMPLE = "scalearn submit sweeps/quickstart.yaml --address http://127.0.0.1:8265"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "submit", "run a sweep as a job of a Ray cluster, or of SLURM")
    parser.add_argument("--force", action="store_true", help="as for `run`")
    add_budget_options(parser)
    parser.add_argument("--address", metavar="URL", help=f"the cluster's dashboard (default: RAY_ADDRESS where it is a URL, else {LOCAL})")
    parser.add_argument("--working-dir", type=Path, default=Path(), metavar="DIRECTORY", help="what to upload (default: this directory)")
    environment = parser.add_mutually_exclusive_group()
    environment.add_argument("--runtime-env-json", metavar="JSON", help="Ray's runtime environment of the job: pip, env_vars, ...")
    environment.add_argument("--runtime-env-file", type=Path, metavar="FILE", help="the same in a YAML file")
    parser.add_argument("--follow", metavar="JOB", help="follow a job that was submitted before, instead of submitting one")
    parser.add_argument("--no-wait", action="store_true", help="leave once the job is submitted")
    submit_slurm.add_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Submit the job and follow it. Return the sweep's exit code, or 130 if the user left the job running. With `--slurm`: queue it.

    Raises:
        UserError: The sweep file or an option is wrong, the directory is too large, or the cluster does not answer or refuses us.
    """
    submit_slurm.refuse_options(arguments)
    sweep = Sweep.load(arguments.sweep, arguments.set, elsewhere=not arguments.slurm)
    safe_segment(sweep.name, "sweep name")
    if arguments.slurm:
        return submit_slurm.submit(arguments, sweep, _words(arguments, arguments.sweep, arguments.store))
    if arguments.follow:
        client = connect(arguments.address)
        job = arguments.follow
    else:
        command = _command(arguments, sweep)
        environment = _runtime_environment(arguments)
        client = connect(arguments.address)
        job = submit(client, command, environment, arguments.working_dir, sweep.name, arguments.store or sweep.store)
        print(f"Submitted {job} to {client.get_address()}: {command}", flush=True)
    if arguments.no_wait:
        print(_commands(arguments, job))
        return 0
    return _follow(client, job, arguments)


def _command(arguments: argparse.Namespace, sweep: Sweep) -> str:
    """Return the command that the cluster runs in the uploaded directory."""
    source = arguments.sweep
    if not sweep.file.endswith("(shipped)"):
        inside = Path(source).resolve()
        if not inside.is_relative_to(arguments.working_dir.resolve()):
            raise UserError(
                f"The sweep file {source} is not below {arguments.working_dir.resolve()}, which is uploaded: choose --working-dir."
            )
        source = inside.relative_to(arguments.working_dir.resolve()).as_posix()
    store = arguments.store or sweep.store
    check_store(store)
    return shlex.join(["scalearn", *_words(arguments, source, store)])


def _words(arguments: argparse.Namespace, source: str, store: str | None) -> list[str]:
    """Return the arguments of `scalearn` that run the sweep."""
    words = ["run", source, *(["--store", store] if store else [])]
    words += [word for override in arguments.set for word in ("--set", override)]
    words += ["--only", arguments.only] if arguments.only is not None else []
    words += ["--max-hours", f"{arguments.max_hours:g}"] if arguments.max_hours else []
    words += ["--max-device-hours", f"{arguments.max_device_hours:g}"] if arguments.max_device_hours else []
    return [*words, *(["--force"] if arguments.force else [])]


def _runtime_environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the content of `--runtime-env-json` or `--runtime-env-file`."""
    flag, text = "--runtime-env-json", arguments.runtime_env_json
    if arguments.runtime_env_file is not None:
        flag = f"--runtime-env-file {arguments.runtime_env_file}"
        try:
            text = arguments.runtime_env_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{flag} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        value = {} if text is None else json.loads(text) if flag == "--runtime-env-json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{flag} is not what it should be: {' '.join(str(error).split())}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{flag} must hold a mapping, such as {{'env_vars': {{'HF_HUB_OFFLINE': '1'}}}}.")
    if "working_dir" in value:
        raise UserError(f"{flag} holds 'working_dir': use --working-dir, which leaves out what no job needs.")
    return value


def _follow(client: "JobSubmissionClient", job: str, arguments: argparse.Namespace) -> int:
    """Follow a job to its end, or until the user leaves it."""
    from orchestrator.remote.submission import Log, follow

    log = Log(_write)
    while True:
        try:
            return follow(client, job, log, _notice)
        except KeyboardInterrupt:
            answer = _ask()
            if answer == "s":
                _stop(client, job)
            elif answer != "c":
                print(f"\n{_commands(arguments, job)}")
                return DETACHED


def _stop(client: "JobSubmissionClient", job: str) -> None:
    try:
        client.stop_job(job)
    except (OSError, RuntimeError) as error:
        _notice(f"Could not ask the sweep to stop ({' '.join(str(error).split())}).")
    else:
        _notice("Asked the sweep to stop; it checkpoints first.")


def _ask() -> str:
    """Ask what an interruption means. Without a terminal, and at a second interruption, leave the job alone."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "d"
    try:
        return input("\n[d]etach and let the sweep run, [s]top it, or [c]ontinue to follow? ").strip().lower()[:1]
    except (EOFError, KeyboardInterrupt):
        return "d"


def _commands(arguments: argparse.Namespace, job: str) -> str:
    address = ["--address", arguments.address] if arguments.address else []
    again = shlex.join(["scalearn", "submit", arguments.sweep, "--follow", job, *address])
    return f"The sweep goes on. To follow it: {again}\nTo stop it:   {shlex.join(['ray', 'job', 'stop', job, *address])}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _notice(sentence: str) -> None:
    print(f"scalearn: {sentence}", file=sys.stderr, flush=True)
