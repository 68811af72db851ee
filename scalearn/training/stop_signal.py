"""A cheap look, between two steps, at whether someone asked to stop."""

import time
from collections.abc import Callable

from scalearn.pauses import pause_for
from scalearn.training.pack import Stop

_SECONDS_BETWEEN_LOOKS = 0.2


class StopSignal:
    """Asks `Runtime.should_stop`, but not at every step."""

    def __init__(self, should_stop: Callable[[], bool] | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the first call of `check`.

        Args:
            should_stop: Tells whether to stop. None: never.
            clock: Seconds.
        """
        self._should_stop = should_stop
        self._clock = clock
        self._next_look = -float("inf")

    def check(self) -> None:
        """Look, if the last look is long enough ago.

        Raises:
            Stop: Someone asked to stop.
        """
        if self._should_stop is None or (begun := self._clock()) < self._next_look:
            return
        if self._should_stop():
            raise Stop
        ended = self._clock()
        self._next_look = ended + max(_SECONDS_BETWEEN_LOOKS, pause_for(ended - begun))  # behind a URL one look is a request
