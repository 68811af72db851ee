"""Lets wide jobs have their turn.

Ray gives what becomes free to whoever fits into it, so a job that needs much would wait as long as narrow ones keep coming.
"""

_PLACING_SECONDS = 60.0
"""How long Ray may take to start a pack once there is room; the nodes that it needs may also be gone."""


class Turns:
    """Which packs were handed out and have not started, and when to hand out no more until they have."""

    def __init__(self, slots: int) -> None:
        """Begin with none.

        Args:
            slots: A pack that so many later ones have overtaken is let through.
        """
        self._slots = max(1, slots)
        self._overtaken: dict[str, int] = {}
        """Trials that have not started, to how many were handed out after them."""
        self._running: set[str] = set()
        self._idle_since: float | None = None

    def handed_out(self, trial: str) -> None:
        """Learn that a pack is with Tune."""
        for waiting in self._overtaken:
            self._overtaken[waiting] += 1
        self._overtaken[trial] = 0

    def started(self, trial: str) -> None:
        """Learn that a pack has a worker."""
        if self._overtaken.pop(trial, None) is not None:
            self._running.add(trial)

    def ended(self, trial: str) -> None:
        """Learn that a pack is gone, started or not."""
        self._overtaken.pop(trial, None)
        self._running.discard(trial)

    def must_wait(self, now: float) -> bool:
        """Tell whether to hand out nothing, so that running packs make room for one that others have overtaken too often.

        Args:
            now: Seconds on any clock. When nothing runs, the pack gets a while to start; after that its node may be gone, and others go on.
        """
        if max(self._overtaken.values(), default=0) < self._slots:
            self._idle_since = None
            return False
        if self._running:
            self._idle_since = None
            return True
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since < _PLACING_SECONDS
