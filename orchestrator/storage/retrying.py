"""Patience with storage: a disk that is full or a store that is away for a moment ends no job; for longer, it ends in one sentence."""

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
"""Longer than a restart of a server or a failover of a file system, shorter than anyone's patience."""

VARIABLE = "SCALEARN_STORE_PATIENCE"
"""Environment variable with other seconds."""

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
        getattr(errno, "EREMOTEIO", errno.EIO),  # what s3fs makes of an internal error of the server; of Linux alone
    }
)
_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError, TypeError, ImportError)
"""Answers, not troubles: asking again gives the same one."""

_SLICE = 0.1

logger = logging.getLogger(__name__)

_given_up = False
_left: set[str] = set()


def give_up() -> None:
    """Wait for no store any more in this process, and do not ask one again that was away: somebody wants the process to end.

    It may be called from a signal's handler, so it takes no lock.
    """
    global _given_up
    _given_up = True


def _sleep(seconds: float) -> None:
    """Sleep until it is over or nobody waits any more."""
    end = time.monotonic() + seconds
    while not _given_up and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE))


def stated_seconds(variable: str, default: float, *, zero: bool = True) -> float:
    """Return the seconds that an environment variable states, or the default where it is not set.

    Raises:
        UserError: It holds no number of seconds, or none where there must be some.
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf") or (zero and float(text) == 0):
            return float(text)
    raise UserError(f"{variable} is {text!r}: give a number of seconds{'' if zero else ' above 0'}, such as {default:g}.")


class StoreUnavailable(UserError, OSError):
    """A store could not be read or written for as long as it was waited for, or does not allow it at all."""

    def __str__(self) -> str:
        """Return the sentence."""
        return str(self.args[0])


@dataclass(frozen=True)
class Patience:
    """How long to try again, and how to pass the time."""

    seconds: float = DEFAULT_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = _sleep

    @classmethod
    def usual(cls) -> "Patience":
        """Return what the environment says, or the default.

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
        """Do something with a store; where storage is full or away, try again with growing pauses.

        Args:
            action: What to do; safe to do twice.
            place: The store's name, for the sentence.
            trouble: Which errors to wait out. None: `is_trouble`.
            progress: Returns something else whenever the action has come further, upon which the patience begins anew.

        Returns:
            What the action returns.

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
    """Tell whether an error says that storage is full or away, and not what it holds."""
    if isinstance(error, StoreUnavailable | UserError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL | _AWAY
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    # Clients of object stores have errors of their own, which this package must not import.
    module = type(error).__module__.partition(".")[0]
    return module in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "azure", "fsspec") and not isinstance(error, _FINAL)


def is_full(error: BaseException | str) -> bool:
    """Tell whether an error, or its text, comes from a full disk, however a library between has wrapped it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(number) in str(error) for number in _FULL)


def is_disk_trouble(error: BaseException) -> bool:
    """Tell whether a training function's error comes from the disk it writes to."""
    return is_full(error) or (isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS, errno.ESTALE))


def reason(error: BaseException) -> str:
    """Return an error's cause in a few words."""
    if isinstance(error, OSError) and error.errno == errno.ESTALE:
        return "it was moved or removed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return clause(error)


def unavailable(place: str, error: BaseException, waited: float) -> str:
    """Return the sentence for trouble that did not end."""
    done, remedy = ("written to", "free some space there") if is_full(error) else ("reached", "bring it back")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        done, remedy = "written to", "make it writable"
    after = f" for {waited:.0f} seconds" if waited >= 1 else ""
    return f"The store {place} could not be {done}{after} ({reason(error)}): {remedy}, then run the same command again."
