"""The tasks of every benchmark."""
