"""Connect to Ray's job server, and submit a command with the files that it needs."""

import os
import shlex
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.definition.identity import safe_segment
from orchestrator.provenance import job_metadata
from orchestrator.remote.upload import pack_directory
from scalearn.errors import UserError
from scalearn.secrets import clause

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from orchestrator.definition.sweep import Sweep

LOCAL = "http://127.0.0.1:8265"
"""Where Ray's dashboard is by default."""

_SWEEPS = "submitted_sweeps"
"""Directory of the copy in which the sweeps of programs lie."""
_NO_AGENT = "No available agent"
"""What Ray's job server says if the agent on the head node has no port."""
_TOKENS = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")


def connect(address: str | None) -> "JobSubmissionClient":
    """Connect to a job server.

    Args:
        address: URL of the cluster's dashboard. None: that of `RAY_API_SERVER_ADDRESS` or `RAY_ADDRESS`, or else `LOCAL`.

    Raises:
        UserError: The address is no URL, or no server answers there or accepts us.
    """
    chosen = address or next(filter(_is_url, map(os.environ.get, ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))), LOCAL)
    if not _is_url(chosen):
        raise UserError(f"--address {chosen}: give the URL of the cluster's dashboard, such as {LOCAL}.")
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


def submit(
    client: "JobSubmissionClient",
    command: str,
    environment: Mapping[str, Any],
    directory: Path,
    sweep: str,
    store: str,
    more: Mapping[str, str] | None = None,
) -> str:
    """Submit a command that runs in a copy of a directory. Return the job's submission id.

    Args:
        client: A connection to the job server.
        command: What the cluster runs.
        environment: Ray's runtime environment of the job.
        directory: What to upload.
        sweep: The sweep's name, with which the id begins.
        store: Where artifacts go.
        more: Texts of further files, by their path in the copy.

    Raises:
        UserError: There is no such directory, it is too large, or the server does not accept the job.
    """
    if not directory.is_dir():
        raise UserError(f"--working-dir {directory} is not a directory.")
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "working_dir.zip"
        pack_directory(directory.resolve(), archive, frozenset({Path(token).absolute()} if token else ()), more)
        try:
            return client.submit_job(
                entrypoint=command,
                submission_id=f"{sweep}-{uuid.uuid4().hex[:8]}",
                runtime_env={**environment, "working_dir": str(archive)},
                metadata=job_metadata(sweep, store),
            )
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            if _NO_AGENT in str(error):
                raise UserError(
                    "No agent of the cluster takes jobs. If another Ray runs on the head's machine, it holds port 52365:"
                    " start the head with --dashboard-agent-listen-port=0, which takes a free one."
                ) from None
            raise UserError(f"The job was not accepted: {' '.join(str(error).split())}.") from None


def submit_sweep(address: str | None, sweep: "Sweep", store: str, directory: Path, environment: Mapping[str, Any]) -> str:
    """Submit the run of a sweep whose file need not exist, beside a directory. Return the job's submission id.

    Args:
        address: As for `connect`.
        sweep: The sweep.
        store: Where artifacts go.
        directory: What to upload.
        environment: Ray's runtime environment of the job.

    Raises:
        UserError: As for `check_store`, `connect` and `submit`.
    """
    check_store(store)
    file = f"{_SWEEPS}/{safe_segment(sweep.name, 'sweep name')}.yaml"
    words = ["scalearn", "run", file, "--store", store]
    words += [word for override in sweep.overrides if not override.startswith("store=") for word in ("--set", override)]
    return submit(connect(address), shlex.join(words), environment, directory, sweep.name, store, {file: sweep.text})


def check_store(store: str) -> None:
    """Refuse a store that would lie in the cluster's copy of the working directory.

    Raises:
        UserError: It is a relative path.
    """
    if "://" not in store and not Path(store).is_absolute():
        raise UserError(
            f"The store '{store}' is relative, and would lie in the cluster's copy of this directory: name a lasting one with --store."
        )


def _is_url(address: str | None) -> bool:
    return address is not None and address.startswith(("http://", "https://"))
