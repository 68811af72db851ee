"""The documented name of `scalearn.backbone.encoder`."""

from scalearn.backbone.encoder import *  # noqa: F403
