"""The documented name of `analysis.tables.compare`."""

from analysis.tables.compare import *  # noqa: F403
