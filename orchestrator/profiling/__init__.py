"""A device's speed, measured."""
