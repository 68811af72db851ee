"""The documented name of `scalearn.backbone.registry`."""

from scalearn.backbone.registry import *  # noqa: F403
