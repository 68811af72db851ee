"""SIGINT, SIGTERM and SIGHUP while a run lasts: the first ends it in good order, wherever it is, and a second one at once."""

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
    """A signal asked to stop; the signal's number is the argument."""


class Signals:
    """Handlers for the whole of a run. Use as a context manager; after a first signal they stay, so that a second one finds them.

    No store is waited for any more from the first signal on.
    """

    def __init__(self) -> None:
        """Prepare; entering the context installs the handlers."""
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
        """Bring the earlier handlers back."""
        if self.received is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers once more, where a library may have put its own in their place."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Only note a signal while the block runs, which looks at `received`; elsewhere `Interrupted` is raised where it arrives."""
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
    """End this process and all that it started: the agents of a local Ray whose head is gone would look for it for a minute."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(130)
