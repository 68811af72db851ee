"""A cheap check, between two steps, whether someone asked to stop."""

import time
from collections.abc import Callable

from scalearn.pauses import pause_for
from scalearn.training.pack import Stop

_SECONDS_BETWEEN_LOOKS = 0.2


class StopSignal:
    """Calls `Runtime.should_stop`, but not at every step."""

    def __init__(self, should_stop: Callable[[], bool] | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare to look at the first call of `check`.

        Args:
            should_stop: Tells whether to stop. None: never.
            clock: Returns seconds.
        """
        self._should_stop = should_stop
        self._clock = clock
        self._next_look = -float("inf")

    def check(self) -> None:
        """Call `should_stop` if the last call is long enough ago.

        Raises:
            Stop: Someone asked to stop.
        """
        if self._should_stop is None or (begun := self._clock()) < self._next_look:
            return
        if self._should_stop():
            raise Stop
        ended = self._clock()
        self._next_look = ended + max(_SECONDS_BETWEEN_LOOKS, pause_for(ended - begun))  # behind a URL, each look is a request
