"""Which encoders there are, how they load, and where in them modules can be added."""
