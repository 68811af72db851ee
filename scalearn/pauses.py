"""How long to wait before an action is repeated, after failures, or because the action takes time from training.

Planning imports this module, so it imports no torch.
"""

_SHARE_OF_TIME = 0.05
"""The largest share of a job's time that may go to other things than training: checkpoints, their upload, checks whether to stop."""

_MOST_GROWTHS = 64
"""Enough growths to exceed any longest pause. A server may be away for days, and a float must not overflow."""


def pause_after(failures: int, first: float, longest: float, growth: float = 2.0) -> float:
    """Return the seconds to wait after so many failures in a row.

    Args:
        failures: Number of failures, at least 1.
        first: Seconds to wait after the first failure.
        longest: The most seconds to wait.
        growth: The ratio of each pause to the one before.

    >>> [pause_after(failures, 1.0, 30.0) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 30.0]
    """
    return min(longest, first * growth ** min(failures - 1, _MOST_GROWTHS))


def pause_for(cost: float) -> float:
    """Return the seconds to wait after an action of `cost` seconds, so that the action takes at most a twentieth of the time."""
    return cost / _SHARE_OF_TIME
