"""The bytes below a store, in a directory or behind a URL: how files are claimed, written, read, listed and removed."""
