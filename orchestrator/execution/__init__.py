"""A sweep on Ray Tune, from its first pack to its table."""
