"""The documented name of `analysis.tables.omega`."""

from analysis.tables.omega import *  # noqa: F403
