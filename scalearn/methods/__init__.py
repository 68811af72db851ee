"""One file per family of methods, and one registry."""
