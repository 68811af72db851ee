"""Subcommands of the command line that are a topic of their own: one module each, with `add` and `run`."""
