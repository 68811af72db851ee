"""The documented name of `scalearn.formats.source_adapters`."""

from scalearn.formats.source_adapters import *  # noqa: F403
