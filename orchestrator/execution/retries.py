"""Which jobs start again after their worker died, when, and whether alone. Pure Python."""

from collections import Counter

from scalearn.pauses import pause_after

NODE_LOSSES = 20
"""How often a job may lose its node. Where machines may be taken away at any time, every long job loses some. A job that loses
this many in one run rather brings its machines down."""

_GROWTH = 4.0
_LONGEST_PAUSE = 60.0


class Retries:
    """The count of workers that died.

    If a worker dies with several jobs, no single job is to blame: all that were not done start again, each alone, and no death is counted.
    If it dies with one job, the death counts for that job. The loss of a node counts for no job, unless one job keeps losing nodes.
    """

    def __init__(self, limit: int, first_pause: float) -> None:
        """Begin with no deaths.

        Args:
            limit: How often a job whose worker died may start again.
            first_pause: Seconds before a job's first retry; each further one waits four times as long, a minute at most.
        """
        self._limit, self._first_pause = limit, first_pause
        self._deaths: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._suspects: set[str] = set()

    def is_suspect(self, node: str) -> bool:
        """Tell whether a job may only run alone, because a worker has died with it."""
        return node in self._suspects

    def died(self, node: str, *, alone: bool, with_node: bool) -> float | None:
        """Learn that a job's worker died before the job was done.

        Args:
            node: The job.
            alone: Whether the job was alone in its pack.
            with_node: Whether the worker's machine was lost.

        Returns:
            Seconds until the job may start again. None: it has died too often.
        """
        if with_node:
            self._losses[node] += 1
            return self._first_pause if self._losses[node] <= NODE_LOSSES else None
        self._suspects.add(node)
        if not alone:
            return 0.0
        self._deaths[node] += 1
        if self._deaths[node] > self._limit:
            return None
        return pause_after(self._deaths[node], self._first_pause, _LONGEST_PAUSE, _GROWTH)
