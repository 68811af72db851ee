"""How long to wait before something is done again: after failures, and after what itself takes time from training.

Planning imports this module, so it imports no torch.
"""

_SHARE_OF_TIME = 0.05
"""Most of a job's time that goes to what is no training: checkpoints, their upload, looks at whether to stop."""

_MOST_GROWTHS = 64
"""Longer than any longest pause; a server may be away for days, and a number has an end."""


def pause_after(failures: int, first: float, longest: float, growth: float = 2.0) -> float:
    """Return the seconds to wait after so many failures in a row.

    Args:
        failures: At least 1.
        first: Seconds after the first one.
        longest: Seconds that no pause exceeds.
        growth: How many times longer each pause is than the one before.

    >>> [pause_after(failures, 1.0, 30.0) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 30.0]
    """
    return min(longest, first * growth ** min(failures - 1, _MOST_GROWTHS))


def pause_for(cost: float) -> float:
    """Return the seconds to let pass after something that took `cost` seconds, so that it takes a twentieth of the time at most."""
    return cost / _SHARE_OF_TIME
