"""Where artifacts lie: how they are claimed, written, committed, told whole, listed and removed, in a directory or behind a URL."""
