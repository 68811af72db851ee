"""Patience with storage. A full disk or a store that is away for a moment ends no job; if it lasts, the job ends with one sentence."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from scalearn.errors import UserError
from scalearn.pauses import pause_after
from scalearn.secrets import clause

T = TypeVar("T")

DEFAULT_SECONDS = 120.0
"""Longer than the restart of a server or the failover of a file system, but no longer than a user would wait."""

VARIABLE = "SCALEARN_STORE_PATIENCE"
"""Environment variable with another number of seconds."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_AWAY = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
        getattr(errno, "EREMOTEIO", errno.EIO),  # s3fs raises this for an internal error of the server; Linux only
    }
)
_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError, TypeError, ImportError)
"""Errors that are answers: asking again gives the same one."""

_SLICE = 0.1

logger = logging.getLogger(__name__)

_given_up = False
_left: set[str] = set()


def give_up() -> None:
    """Wait for no store any more in this process, and do not ask a store again that was away: somebody wants the process to end.

    A signal handler may call this, so it takes no lock.
    """
    global _given_up
    _given_up = True


def _sleep(seconds: float) -> None:
    """Sleep for so many seconds, or until `give_up` is called."""
    end = time.monotonic() + seconds
    while not _given_up and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE))


def stated_seconds(variable: str, default: float, *, zero: bool = True) -> float:
    """Return the seconds in an environment variable, or the default if it is not set.

    Raises:
        UserError: The variable holds no number of seconds, or 0 where 0 is not allowed.
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf") or (zero and float(text) == 0):
            return float(text)
    raise UserError(f"{variable} is {text!r}: give a number of seconds{'' if zero else ' above 0'}, such as {default:g}.")


class StoreUnavailable(UserError, OSError):
    """A store could not be read or written during the whole wait, or does not allow it at all."""

    def __str__(self) -> str:
        """Return the sentence."""
        return str(self.args[0])


@dataclass(frozen=True)
class Patience:
    """How long to try again, and how to pass the time in between."""

    seconds: float = DEFAULT_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = _sleep

    @classmethod
    def usual(cls) -> "Patience":
        """Return the environment's patience, or the default.

        Raises:
            UserError: The variable holds no number of seconds.
        """
        return cls(stated_seconds(VARIABLE, DEFAULT_SECONDS))

    def persist(
        self,
        action: Callable[[], T],
        place: str,
        *,
        trouble: Callable[[BaseException], bool] | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> T:
        """Run an action on a store. If storage is full or away, try again with growing pauses.

        Args:
            action: The action, which must be safe to repeat.
            place: The store's name, for the sentence.
            trouble: Tells which errors to wait out. None: `is_trouble`.
            progress: Returns another value whenever the action has come further. Then the patience begins anew.

        Returns:
            The result of the action.

        Raises:
            StoreUnavailable: The trouble outlasted the patience.
        """
        began: float | None = None
        reached: object = None
        failures = 0
        if place in _left:
            raise StoreUnavailable(unavailable(place, InterruptedError("it was away when the run was interrupted"), 0.0))
        while True:
            try:
                return action()
            except Exception as error:
                if not (trouble or is_trouble)(error):
                    raise
                now = self.clock()
                if began is None or progress() != reached:
                    began, reached, failures = now, progress(), 0
                    if self.seconds:
                        logger.warning("The store %s: %s. Trying again for up to %g s.", place, reason(error), self.seconds)
                if now - began >= self.seconds or _given_up:
                    if _given_up:
                        _left.add(place)
                    raise StoreUnavailable(unavailable(place, error, now - began)) from error
                failures += 1
                self.sleep(min(pause_after(failures, _FIRST_PAUSE, _LONGEST_PAUSE), self.seconds - (now - began)))


def is_trouble(error: BaseException) -> bool:
    """Tell whether an error means that storage is full or away, rather than something about its content."""
    if isinstance(error, StoreUnavailable | UserError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL | _AWAY
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    # Clients of object stores have their own errors, which this package must not import.
    module = type(error).__module__.partition(".")[0]
    return module in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "azure", "fsspec") and not isinstance(error, _FINAL)


def is_full(error: BaseException | str) -> bool:
    """Tell whether an error, or its text, comes from a full disk, even if a library has wrapped it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(number) in str(error) for number in _FULL)


def is_disk_trouble(error: BaseException) -> bool:
    """Tell whether an error of a training function comes from the disk that it writes to."""
    return is_full(error) or (isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS, errno.ESTALE))


def reason(error: BaseException) -> str:
    """Return the cause of an error in a few words."""
    if isinstance(error, OSError) and error.errno == errno.ESTALE:
        return "it was moved or removed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return clause(error)


def unavailable(place: str, error: BaseException, waited: float) -> str:
    """Return the error for trouble that did not end."""
    done, remedy = ("written to", "free some space there") if is_full(error) else ("reached", "bring it back")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        done, remedy = "written to", "make it writable"
    after = f" for {waited:.0f} seconds" if waited >= 1 else ""
    return f"The store {place} could not be {done}{after} ({reason(error)}): {remedy}, then run the same command again."
