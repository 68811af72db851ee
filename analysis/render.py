"""The documented name of `analysis.tables.render`."""

from analysis.tables.render import *  # noqa: F403
