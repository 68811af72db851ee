"""`scalearn submit`: run a sweep as a job of a Ray cluster, follow it, and exit with the sweep's own exit code; or queue it in SLURM."""

import argparse
import json
import os
import shlex
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.commands import submit_slurm
from orchestrator.commands.arguments import Commands, add_budget_options, add_sweep_command
from orchestrator.definition.identity import safe_segment
from orchestrator.definition.sweep import Sweep
from orchestrator.provenance import job_metadata
from orchestrator.remote.upload import pack_directory
from scalearn.errors import UserError
from scalearn.secrets import clause

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DETACHED = 130
_LOCAL = "http://127.0.0.1:8265"
_NO_AGENT = "No available agent"
"""What Ray's job server says if the agent on the head node has no port."""
_TOKENS = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
EXAMPLE = "scalearn submit sweeps/quickstart.yaml --address http://127.0.0.1:8265"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    parser = add_sweep_command(commands, "submit", "run a sweep as a job of a Ray cluster, or of SLURM")
    parser.add_argument("--force", action="store_true", help="as for `run`")
    add_budget_options(parser)
    parser.add_argument("--address", metavar="URL", help=f"the cluster's dashboard (default: RAY_ADDRESS where it is a URL, else {_LOCAL})")
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
        client = _client(arguments.address)
        job = arguments.follow
    else:
        command = _command(arguments, sweep)
        environment = _runtime_environment(arguments)
        client = _client(arguments.address)
        job = _submit(client, command, environment, arguments.working_dir, sweep, arguments.store or sweep.store)
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
    if "://" not in store and not Path(store).is_absolute():
        raise UserError(
            f"The store '{store}' is relative, and would lie in the cluster's copy of this directory: name a lasting one with --store."
        )
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


def _client(address: str | None) -> "JobSubmissionClient":
    """Connect to the job server."""
    chosen = address or next(filter(_is_url, map(os.environ.get, ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))), _LOCAL)
    if not _is_url(chosen):
        raise UserError(f"--address {chosen}: give the URL of the cluster's dashboard, such as {_LOCAL}.")
    os.environ["RAY_API_SERVER_ADDRESS"] = str(chosen)  # Ray's variables win over arguments
    if any(os.environ.get(name) for name in _TOKENS):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # the default of `ray.init`, but not of the job client
    from ray.exceptions import AuthenticationError  # it loads Ray, seconds that a wrong file or option should not cost
    from ray.job_submission import JobSubmissionClient

    from orchestrator.remote.submission import refused

    try:
        return JobSubmissionClient(chosen)
    except AuthenticationError as error:
        raise refused(error) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"No job server of Ray answers at {chosen} ({clause(error)}): is the cluster up, and the tunnel to it open?"
        ) from None


def _is_url(address: str | None) -> bool:
    return address is not None and address.startswith(("http://", "https://"))


def _submit(client: "JobSubmissionClient", command: str, environment: dict[str, Any], directory: Path, sweep: Sweep, store: str) -> str:
    if not directory.is_dir():
        raise UserError(f"--working-dir {directory} is not a directory.")
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "working_dir.zip"
        pack_directory(directory.resolve(), archive, frozenset({Path(token).absolute()} if token else ()))
        try:
            return client.submit_job(
                entrypoint=command,
                submission_id=f"{sweep.name}-{uuid.uuid4().hex[:8]}",
                runtime_env={**environment, "working_dir": str(archive)},
                metadata=job_metadata(sweep.name, store),
            )
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            if _NO_AGENT in str(error):
                raise UserError(
                    "No agent of the cluster takes jobs. If another Ray runs on the head's machine, it holds port 52365:"
                    " start the head with --dashboard-agent-listen-port=0, which takes a free one."
                ) from None
            raise UserError(f"The job was not accepted: {' '.join(str(error).split())}.") from None


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
