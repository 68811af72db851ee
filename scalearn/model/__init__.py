"""A trained job as a model."""
