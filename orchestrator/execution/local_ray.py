"""A run's own Ray on this machine: where its files lie, how it starts, and how to clean up once it is gone."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from scalearn.errors import UserError

LOCAL = "local"
"""Ray's address for a new Ray, whatever else runs on the machine."""

_VITAL = {"gcs_server": "head", "raylet": "raylet"}
"""Processes without which Ray no longer works, and what messages call them."""

_SOCKET_PATH_BYTES = 107
_SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead")
"""The longest path of a socket below Ray's directory."""


class RayLost(Exception):
    """The local Ray has died during a run. The argument is one sentence for the user."""


@dataclass(frozen=True)
class LocalRay:
    """A Ray that this process has started."""

    vital: Mapping[str, psutil.Process]
    """Processes without which this Ray no longer works, by what messages call them."""
    processes: frozenset[psutil.Process]
    """All its processes but the workers, which come and go."""
    session: Path
    """The session's directory. Workers write their output to files there."""

    def check(self) -> None:
        """End the rest of this Ray if a vital part of it is gone, since a run would otherwise wait for it for ever.

        Raises:
            RayLost: A vital part is gone.
        """
        ended = next((name for name, process in self.vital.items() if not _is_running(process)), None)
        if ended is not None:
            why = f"its {ended} process has ended, perhaps killed for want of memory"
        elif not self.session.exists():  # somebody tidied it away: no more workers would start
            why = f"its directory {self.session} was removed"
        else:
            return
        _kill(self.processes)
        _kill(process for process in psutil.process_iter() if self._is_worker(process))
        raise RayLost(
            f"The local Ray is gone: {why}. What was done is kept; run the same command again to go on from the last checkpoints."
        )

    def _is_worker(self, process: psutil.Process) -> bool:
        """Tell by a process's standard output whether it is a worker. Its parent does not tell: workers of a dead raylet have none."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{process.pid}/fd/1").readlink().is_relative_to(self.session)
        return False


def start(**settings: Any) -> tuple[LocalRay, Any]:
    """Start a Ray, and connect to it.

    Args:
        settings: Arguments of `ray.init`.

    Returns:
        The Ray, and what `ray.init` returned.

    Raises:
        UserError: Ray does not start; nothing of it is left.
    """
    settings["_temp_dir"] = str(_directory())
    before = _children()
    try:
        context = _start(before, settings)
    except Exception as error:  # Ray has no error type of its own here
        reason = re.split(r"[.:]?\s*\n|\.\s", str(error).strip())[0].rstrip(".") or type(error).__name__
        logs = f"{settings['_temp_dir']}/session_latest/logs"
        # Ray's token is a file in the home directory.
        denied = isinstance(error, PermissionError) or "Permission denied" in reason
        remedy = (
            "let this user write there, or set HOME to another directory" if denied else f"try again, or see what its logs say in {logs}"
        )
        raise UserError(f"Ray could not be started on this machine ({reason}): {remedy}.") from error
    started = _children() - before
    vital = {_VITAL[process.name()]: process for process in started if process.name() in _VITAL}
    return LocalRay(vital, started, Path(context.address_info["session_dir"])), context


def _start(before: frozenset[psutil.Process], settings: Mapping[str, Any]) -> Any:
    for is_last in (False, True):
        try:
            return ray.init(LOCAL, **settings)
        except Exception as error:
            ray.shutdown()
            _kill(_children() - before)
            # A busy machine may need longer than the half minute that Ray allows.
            if is_last or "timed out during startup" not in str(error):
                raise
    raise AssertionError("unreachable")


def _directory() -> Path:
    """Return where Ray may put its sockets and logs: its usual directory, if that is fit for it."""
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    places = [Path(place).absolute() / "ray" for place in (*named, "/tmp")]
    places.append(Path(f"/tmp/ray-{os.getuid()}"))  # where the usual one belongs to another user
    room = _SOCKET_PATH_BYTES - _SESSION_BYTES
    for place in places:
        if len(os.fsencode(place)) <= room:
            with contextlib.suppress(OSError):
                place.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=place).close()
                return place
    tried = ", ".join(dict.fromkeys(map(str, places)))
    raise UserError(
        f"Ray needs a directory to write to with a path of at most {room} bytes, and {tried} are not fit for it:"
        f" set RAY_TMPDIR to one with a path of at most {room - len('/ray')} bytes."
    )


def _children() -> frozenset[psutil.Process]:
    return frozenset(psutil.Process().children(recursive=True))


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
