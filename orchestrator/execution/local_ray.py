"""A Ray of a run's own on this machine: where it lies, how it starts, and what is left to do once it is gone."""

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
"""Ray's address for a Ray of one's own, whatever else runs on the machine."""

_VITAL = {"gcs_server": "head", "raylet": "raylet"}
"""Processes without which Ray does nothing any more, and what they are called."""

_SOCKET_PATH_BYTES = 107
_SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead")
"""The longest path of a socket within Ray's directory."""


class RayLost(Exception):
    """The local Ray is gone in the middle of a run: what a user should know, in one sentence."""


@dataclass(frozen=True)
class LocalRay:
    """A Ray that this process has started."""

    vital: Mapping[str, psutil.Process]
    """Processes without which it does nothing any more, by what they are called."""
    processes: frozenset[psutil.Process]
    """All but the workers, which come and go."""
    session: Path
    """Its directory. Workers write their output to files there."""

    def check(self) -> None:
        """End what is left of a Ray of which nothing would ever be heard again.

        Raises:
            RayLost: It was so.
        """
        ended = next((name for name, process in self.vital.items() if not _is_running(process)), None)
        if ended is not None:
            why = f"its {ended} process has ended, perhaps killed for want of memory"
        elif not self.session.exists():  # by whoever tidies up such directories: no worker would start any more
            why = f"its directory {self.session} was removed"
        else:
            return
        _kill(self.processes)
        _kill(process for process in psutil.process_iter() if self._is_worker(process))
        raise RayLost(
            f"The local Ray is gone: {why}. What was done is kept; run the same command again to go on from the last checkpoints."
        )

    def _is_worker(self, process: psutil.Process) -> bool:
        """Tell by where its standard output goes: the workers of a dead raylet are nobody's children."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{process.pid}/fd/1").readlink().is_relative_to(self.session)
        return False


def start(**settings: Any) -> tuple[LocalRay, Any]:
    """Start a Ray, and connect to it.

    Args:
        settings: For `ray.init`.

    Returns:
        The Ray, and what `ray.init` returned.

    Raises:
        UserError: It does not start; nothing of it is left.
    """
    settings["_temp_dir"] = str(_directory())
    before = _children()
    try:
        context = _start(before, settings)
    except Exception as error:  # Ray raises no type of its own here
        reason = re.split(r"[.:]?\s*\n|\.\s", str(error).strip())[0].rstrip(".") or type(error).__name__
        logs = f"{settings['_temp_dir']}/session_latest/logs"
        # Its token is a file in the home directory.
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
            # A busy machine may need longer than the half minute that Ray gives itself.
            if is_last or "timed out during startup" not in str(error):
                raise
    raise AssertionError("unreachable")


def _directory() -> Path:
    """Return where Ray may put its sockets and logs: where it would of itself, if that is fit for it."""
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    places = [Path(place).absolute() / "ray" for place in (*named, "/tmp")]
    places.append(Path(f"/tmp/ray-{os.getuid()}"))  # where the common one is another user's
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
