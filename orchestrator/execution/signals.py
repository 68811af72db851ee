"""SIGINT, SIGTERM and SIGHUP during a run. The first one ends the run in good order, wherever it is; a second one ends it at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psutil

from orchestrator.storage import retrying as patience


class Interrupted(KeyboardInterrupt):
    """A signal has asked the run to stop. The argument is the signal's number."""


class Signals:
    """Signal handlers for a whole run. Use as a context manager. After a first signal the handlers stay, to catch a second one.

    From the first signal on, the run no longer waits for any store.
    """

    def __init__(self) -> None:
        """Prepare. The handlers are installed when the context is entered."""
        self.received: int | None = None
        self._noting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
            if self._before[signal.SIGHUP] == signal.SIG_IGN:  # as `nohup` has it
                del self._before[signal.SIGHUP]
            self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore the earlier handlers."""
        if self.received is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers again, in case a library has replaced them by its own."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Only note a signal while the block runs; the block looks at `received`. Outside it, a signal raises `Interrupted` at once."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGHUP:  # a terminal that closes may send several
                return
            _end_at_once()
        self.received = number
        patience.give_up()
        if not self._noting:
            raise Interrupted(number)


def _end_at_once() -> None:
    """End this process and all that it started, since agents of a local Ray would look for their dead head for a minute."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(130)
