"""The documented name of `analysis.reading.frame`."""

from analysis.reading.frame import *  # noqa: F403
