"""The documented name of `analysis.tables.statistics`."""

from analysis.tables.statistics import *  # noqa: F403
