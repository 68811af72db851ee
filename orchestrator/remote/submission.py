"""Follow a job of Ray's job server from any machine, over broken connections, to the job's own exit code."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import aiohttp
from ray.exceptions import AuthenticationError

from scalearn.errors import UserError
from scalearn.pauses import pause_after
from scalearn.secrets import clause

STOPPED, NO_CODE = 130, 1
"""Exit codes of a job that was stopped, and of a job that failed before its command could leave one."""

_QUIET_SECONDS = 60.0
"""After so many silent seconds a connection may be dead without notice, so the next look makes a new one."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_PATIENCE_SECONDS = 3600.0

_LOST = (OSError, RuntimeError, aiohttp.ClientError)
"""What Ray's client raises if a server does not answer, answers with an error of its own, or drops the connection."""


class Client(Protocol):
    """The part of Ray's `JobSubmissionClient` that following a job needs."""

    def get_job_info(self, job_id: str) -> Any:
        """Return the status, the message and the driver's exit code."""

    def get_job_logs(self, job_id: str) -> str:
        """Return the whole log."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Iterate over the log from its beginning while it grows."""


def follow(
    client: Client,
    job: str,
    log: "Log",
    notice: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Show a job's log until the job ends. A lost connection is made again, and the log continues where it was.

    Args:
        client: A connection to the job server.
        job: The job's submission id.
        log: Shows the log, and knows what it has already shown.
        notice: Called with a sentence about the connection.
        sleep: Passes the time between two attempts.
        clock: Returns seconds.

    Returns:
        The exit code of the job's command; 130 if the job was stopped.

    Raises:
        UserError: The server does not know the job, refuses the connection, or was away for an hour.
    """
    failures, since = 0, clock()
    while True:
        seen = log.seen
        try:
            info = client.get_job_info(job)
            if info.status.is_terminal():
                log.show(client.get_job_logs(job))
                return exit_code(info, notice)
            asyncio.run(_tail(client, job, log))
            failures, since = 0, clock()
            if log.seen == seen:
                sleep(_FIRST_PAUSE)
        except AuthenticationError as error:
            raise refused(error) from None
        except _LOST as error:
            if "status code 404" in str(error):
                raise UserError(f"The cluster knows no job {job}: it may have been started anew since.") from None
            if log.seen > seen:
                failures, since = 0, clock()
            if clock() - since > _PATIENCE_SECONDS:
                raise UserError(f"The cluster has not answered for an hour ({clause(error)}): follow {job} again once it does.") from None
            failures += 1
            pause = pause_after(failures, _FIRST_PAUSE, _LONGEST_PAUSE)
            notice(f"The connection is lost ({clause(error)}); the job goes on. Trying again in {pause:g} s.")
            sleep(pause)


def exit_code(info: Any, notice: Callable[[str], None] = lambda _: None) -> int:
    """Return the exit code of a job that has ended: that of its command, if there is one."""
    status, code = str(info.status), info.driver_exit_code
    if status == "STOPPED":
        return STOPPED
    if status == "SUCCEEDED":
        return 0
    if code is None:
        notice(f"The job failed before its command ended: {info.message}")
        return NO_CODE
    return int(code) if code >= 0 else 128 - int(code)  # a signal, numbered as shells do


def refused(error: Exception) -> UserError:
    """Return the error for a cluster that does not accept the token, or that requires one."""
    return UserError(
        f"The cluster refuses us ({clause(error)}): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the cluster's token."
    )


class Log:
    """The part of a log that has been shown. Ray's server sends the log from its beginning on every connection."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Begin with nothing shown.

        Args:
            write: Called with the pieces of the log in order, once for each piece.
        """
        self._write = write
        self.seen = 0

    def show(self, text: str, start: int = 0) -> None:
        """Show what is new in a piece that begins at a given character of the log."""
        new = text[max(0, self.seen - start) :]
        if new:
            self._write(new)
            self.seen += len(new)


async def _tail(client: Client, job: str, log: Log) -> None:
    """Show a log while it grows, until the server ends the connection or sends nothing for a while."""
    stream, position = aiter(client.tail_job_logs(job)), 0
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), _QUIET_SECONDS)
        except (StopAsyncIteration, TimeoutError):
            return
        log.show(piece, position)
        position += len(piece)
